"""Write generated images in class folders, as training data for another model."""

from dataclasses import dataclass
from pathlib import Path

from src.diffusion.conditions import class_of
from src.samplers.pipeline import Pipeline
from src.tasks.base import Result, Task, TaskInput
from src.utils.errors import UserError
from src.utils.ranges import PositiveInt
from src.utils.sample_files import write_pictures


@dataclass
class Augment(Task):
    """Write n images, equally many of each class, to images/CLASS/00000.png, for data=image_folder.

    CLASS is the name of the class in the training data if it has one, else its number.

    Args:
        n: total number of images.
    """

    n: PositiveInt = 1000
    makes_samples = True

    def __call__(self, pipeline: Pipeline, inputs: TaskInput) -> Result:
        label = class_of(pipeline.cond)
        if label is None:
            raise UserError("task=augment needs a run trained with condition=labels")
        if pipeline.kind != "images":
            raise UserError("task=augment needs a run trained on images; use task=generate")
        return Result(pipeline.sample(self.n), cond=pipeline.cond, grid_columns=len(label.unique()))

    def save(self, pipeline: Pipeline, result: Result, folder: Path) -> list[str]:
        assert result.label is not None
        present = result.label.unique().tolist()
        for label in present:
            name = pipeline.class_names[label] if pipeline.class_names else str(label)
            write_pictures(pipeline.to_units(result.x[result.label == label]), folder / "images" / name)
        return [f"images/ with {len(present)} classes"]

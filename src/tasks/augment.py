"""Write generated images in class folders, as training data for another model."""

from dataclasses import dataclass
from pathlib import Path

from src.samplers.pipeline import Pipeline
from src.tasks.base import Result, Task, TaskInput
from src.utils.errors import UserError
from src.utils.ranges import PositiveInt
from src.utils.sample_files import write_pictures


@dataclass
class Augment(Task):
    """A folder of n images, equally many of each class: images/CLASS/00000.png, for data=image_folder.

    The classes have the names of the folders that the run was trained on, or else their numbers.

    Args:
        n: number of images in all.
    """

    n: PositiveInt = 1000
    makes_samples = True

    def __call__(self, pipeline: Pipeline, inputs: TaskInput) -> Result:
        if pipeline.cond is None:
            raise UserError("task=augment needs a run trained with condition=labels")
        if pipeline.kind != "images":
            raise UserError("task=augment writes images, but this run was not trained on any; use task=generate")
        return Result(pipeline.sample(self.n), label=pipeline.cond, grid_columns=len(pipeline.cond.unique()))

    def save(self, pipeline: Pipeline, result: Result, folder: Path) -> list[str]:
        assert result.label is not None
        present = result.label.unique().tolist()
        for label in present:
            name = pipeline.class_names[label] if pipeline.class_names else str(label)
            write_pictures(pipeline.to_units(result.x[result.label == label]), folder / "images" / name)
        return [f"images/ with {len(present)} classes"]

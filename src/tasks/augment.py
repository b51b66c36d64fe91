"""New labelled images, for training something else."""

from dataclasses import dataclass
from pathlib import Path

from src.samplers.pipeline import Model, draw
from src.tasks.base import Inputs, Result, Task
from src.utils.errors import UserError
from src.utils.ranges import PositiveInt
from src.utils.sample_files import write_pictures
from src.utils.units import to_units


@dataclass
class Augment(Task):
    """A folder of n images, as many of each class: images/CLASS/00000.png, ready for data=image_folder.

    The classes have the names of the folders that the run was trained on, or else their numbers.

    Args:
        n: how many in all.
    """

    n: PositiveInt = 1000
    makes_samples = True

    def __call__(self, model: Model, inputs: Inputs) -> Result:
        if model.label is None:
            raise UserError("task=augment makes labelled images, but this run was trained without labels")
        if model.kind != "images":
            raise UserError("task=augment writes images, but this run was not trained on any; use task=generate")
        x, _ = draw(model, self.n)
        return Result(x, label=model.label, columns=len(model.label.unique()))

    def save(self, model: Model, result: Result, folder: Path) -> list[str]:
        assert result.label is not None
        present = result.label.unique().tolist()
        for label in present:
            name = model.classes[label] if model.classes else str(label)
            write_pictures(to_units(result.x[result.label == label], "images"), folder / "images" / name)
        return [f"images/ with {len(present)} classes"]

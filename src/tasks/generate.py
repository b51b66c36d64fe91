"""Draw samples from a trained denoiser."""

from dataclasses import dataclass

from src.samplers.pipeline import Model, draw
from src.tasks.base import Inputs, Result, Task
from src.utils.ranges import NonNegativeInt


@dataclass
class Generate(Task):
    """New samples from noise.

    Args:
        n: how many.
        keep: of how many to keep the trajectory.
    """

    n: int = 64
    keep: NonNegativeInt = 0
    makes_samples = True

    def __call__(self, model: Model, inputs: Inputs) -> Result:
        x, trajectory = draw(model, self.n, self.keep)
        return Result(x, trajectory=trajectory, label=model.label)

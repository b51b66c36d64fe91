"""Draw samples from a trained denoiser."""

from dataclasses import dataclass

from src.samplers.pipeline import Pipeline
from src.tasks.base import Inputs, Result, Task
from src.utils.ranges import NonNegativeInt


@dataclass
class Generate(Task):
    """New samples.

    Args:
        n: how many.
        keep: of how many to keep the trajectory.
    """

    n: int = 64
    keep: NonNegativeInt = 0
    makes_samples = True

    def __call__(self, pipeline: Pipeline, inputs: Inputs) -> Result:
        x, trajectory = pipeline.sample_with_trajectory(self.n, self.keep)
        return Result(x, trajectory=trajectory, label=pipeline.cond)

"""Draw new samples."""

from dataclasses import dataclass

from src.samplers.pipeline import Pipeline
from src.tasks.base import Result, Task, TaskInput
from src.utils.ranges import NonNegativeInt


@dataclass
class Generate(Task):
    """Draw new samples from noise.

    Args:
        n: number of samples.
        keep: number of samples whose trajectory is kept.
    """

    n: int = 64
    keep: NonNegativeInt = 0
    makes_samples = True

    def __call__(self, pipeline: Pipeline, inputs: TaskInput) -> Result:
        x, trajectory = pipeline.sample_with_trajectory(self.n, self.keep)
        return Result(x, trajectory=trajectory, cond=pipeline.cond)

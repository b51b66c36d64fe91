"""Draw new samples."""

from dataclasses import dataclass, replace

import torch

from src.diffusion.conditions import Cond, map_cond
from src.samplers.pipeline import Pipeline
from src.tasks.base import Result, Task, TaskInput
from src.utils.ranges import NonNegativeInt


@dataclass
class Generate(Task):
    """Draw new samples from noise.

    Args:
        n: number of samples.
        keep: number of samples whose trajectory is kept.
        pad_batches: True to compute batches of exactly the pipeline's batch size. The last bits of what a network
            computes of a sample depend on the size of its batch, though not on the other samples in it.
    """

    n: int = 64
    keep: NonNegativeInt = 0
    pad_batches: bool = False
    makes_samples = True

    def __call__(self, pipeline: Pipeline, inputs: TaskInput) -> Result:
        drawn = self.computed(pipeline)
        cond = lengthened(pipeline.conditions(range(self.n)), drawn)
        x, trajectory = replace(pipeline, cond=cond).sample_with_trajectory(drawn, self.keep)
        return Result(x[: self.n], trajectory=trajectory, cond=pipeline.cond)

    def computed(self, pipeline: Pipeline) -> int:
        """The number of samples that are computed."""
        size = pipeline.batch_size if self.pad_batches else 1
        return -(-self.n // size) * size


def lengthened(cond: Cond | None, n: int) -> Cond | None:
    """Conditions (N, ...) with the last repeated, so that there are n."""
    return map_cond(lambda x: torch.cat([x, x[-1:].expand(n - len(x), *x.shape[1:])]), cond)

"""Vary a sample: add noise, and sample from there."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Interval

from src.samplers.pipeline import Pipeline
from src.tasks.base import Result, Task, TaskInput, require_input


@dataclass
class SDEdit(Task):
    """Add noise to the input up to a time, and sample from there: structure coarser than the noise remains.

    Args:
        t_start: time in (0, 1]; small values change the input little, large ones keep little of it.

    Source: Meng et al. 2022, arXiv:2108.01073, algorithm 1 (SDEdit).
    """

    t_start: Annotated[float, Interval(gt=0, le=1)] = 0.6

    def __post_init__(self) -> None:
        if not 0 < self.t_start <= 1:
            raise ValueError(f"task.t_start must be in (0, 1], got {self.t_start}")

    def __call__(self, pipeline: Pipeline, inputs: TaskInput) -> Result:
        given = require_input(inputs.truth if inputs.x is None else inputs.x, pipeline)
        t = torch.tensor(self.t_start, dtype=torch.float64)
        batches, noisy = [], []
        for indices in pipeline.batches(len(given)):
            x_0 = given[indices.start : indices.stop].to(pipeline.device)
            x_t = pipeline.denoiser.schedule.add_noise(x_0, t, pipeline.noise(indices, " edit")(x_0))
            noisy.append(x_t.cpu())
            batches.append(pipeline.sample_batch(indices, x_t, self.t_start).cpu())
        comparison = {"input": given, f"at t = {self.t_start:g}": torch.cat(noisy)}
        return Result(torch.cat(batches), comparison, cond=pipeline.cond)

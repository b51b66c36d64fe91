"""Begin not from noise but from a sample: change it, or pass from one to another."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from src.samplers.base import NoiseLevel, ddim_step
from src.samplers.pipeline import Pipeline
from src.tasks.base import Inputs, Result, Task, wanted
from src.utils.errors import UserError
from src.utils.ranges import PositiveInt


@dataclass
class Edit(Task):
    """Noise the input up to a level and sample from there: coarse structure is kept, finer structure is drawn anew.

    Args:
        level: t in (0, 1), from hardly a change to hardly a trace of the input.

    Source: Meng et al. 2022, arXiv:2108.01073, algorithm 1 (SDEdit).
    """

    level: Annotated[float, Interval(gt=0, le=1)] = 0.6

    def __post_init__(self) -> None:
        if not 0 < self.level <= 1:
            raise ValueError(f"task.level={self.level} is a time above 0 and at most 1")

    def __call__(self, pipeline: Pipeline, inputs: Inputs) -> Result:
        given = wanted(inputs.truth if inputs.x is None else inputs.x, pipeline)
        t = torch.tensor(self.level, dtype=torch.float64)
        parts, noisy = [], []
        for indices in pipeline.batches(len(given)):
            x_0 = given[indices.start : indices.stop].to(pipeline.device)
            x_t = pipeline.denoiser.schedule.add_noise(x_0, t, pipeline.noise(indices, " edit")(x_0))
            noisy.append(x_t.cpu())
            parts.append(pipeline.sample_batch(indices, x_t, self.level).cpu())
        return Result(
            torch.cat(parts), {"input": given, f"at t = {self.level:g}": torch.cat(noisy)}, label=pipeline.cond
        )


@dataclass
class Interpolate(Task):
    r"""Interpolate between two samples, spherically between their DDIM-inverted noises.

    .. math:: z_u = \frac{\sin((1 - u)\theta)\, z_0 + \sin(u \theta)\, z_1}{\sin \theta}

    The inputs are taken two by two; each pair gives a row of the picture, its ends the reconstructed inputs.

    Args:
        between: samples between the two of a pair.
        steps: of DDIM, either way.
        iterations: of the fixed point that inverts each of its steps.

    Source: Song, Meng, Ermon 2021, arXiv:2010.02502, section 5.3 and eq. 67.
    """

    between: PositiveInt = 8
    steps: PositiveInt = 50
    iterations: PositiveInt = 3

    def __post_init__(self) -> None:
        if min(self.between, self.steps, self.iterations) < 1:
            raise ValueError("task.between, task.steps and task.iterations are at least 1")

    def __call__(self, pipeline: Pipeline, inputs: Inputs) -> Result:
        ends = wanted(inputs.truth if inputs.x is None else inputs.x, pipeline)
        if len(ends) < 2 or len(ends) % 2:
            raise UserError(f"task=interpolate takes pairs, but input holds {len(ends)} sample(s); give 2, 4, ...")
        times = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)[1:].clamp(max=0.999)
        levels = pipeline.sampler.noise_levels(times)
        latent = torch.cat([self.encode(pipeline, indices, ends, levels) for indices in pipeline.batches(len(ends))])
        u = torch.linspace(0, 1, self.between + 2)
        arcs = torch.cat([slerp(a, b, u) for a, b in latent.view(-1, 2, *pipeline.shape)])
        if pipeline.cond is not None:
            pipeline = replace(pipeline, cond=pipeline.cond[::2].repeat_interleave(len(u)))
        x = torch.cat([self.decode(pipeline, indices, arcs, levels) for indices in pipeline.batches(len(arcs))])
        error = (
            (x.view(-1, len(u), *pipeline.shape)[:, [0, -1]] - ends.view(-1, 2, *pipeline.shape)).square().mean().sqrt()
        )
        facts = {"ends": f"reconstructed to a root mean squared error of {float(error) / pipeline.data_scale:.3g}"}
        return Result(x, label=pipeline.cond, columns=len(u), facts=facts)

    def encode(self, pipeline: Pipeline, indices: range, x: Tensor, levels: list[NoiseLevel]) -> Tensor:
        """The noise from which `decode` comes back to these indices of x."""
        denoise = pipeline.denoise(indices)
        first = levels[0]
        x_0 = x[indices.start : indices.stop].to(pipeline.device)
        x_t = first.alpha * x_0
        for _ in range(self.iterations):
            x_t = first.alpha * x_0 + first.sigma * first.eps(x_t, denoise(x_t, first.t).x_0)
        for t, s in pairwise(levels):
            x_s = x_t
            for _ in range(self.iterations):  # x_s with move(x_s, s -> t) = x_t
                x_s = ddim_step(x_t, denoise(x_s, s.t).x_0, t, s)
            x_t = x_s
        return x_t.cpu()

    def decode(self, pipeline: Pipeline, indices: range, z: Tensor, levels: list[NoiseLevel]) -> Tensor:
        """Deterministic DDIM from these indices of noise."""
        denoise = pipeline.denoise(indices)
        x = z[indices.start : indices.stop].to(pipeline.device)
        for t, s in pairwise(reversed(levels)):
            x = ddim_step(x, denoise(x, t.t).x_0, t, s)
        return denoise(x, levels[0].t).x_0.cpu()


def slerp(a: Tensor, b: Tensor, u: Tensor) -> Tensor:
    """Points (len(u), ...) on the arc from a to b; straight where the two are parallel."""
    cosine = (a * b).sum() / (a.norm() * b.norm())
    angle = torch.arccos(cosine.clamp(-1, 1))
    u = u.view(-1, *[1] * a.ndim)
    if torch.sin(angle) < 1e-4:
        return (1 - u) * a + u * b
    return (torch.sin((1 - u) * angle) * a + torch.sin(u * angle) * b) / torch.sin(angle)

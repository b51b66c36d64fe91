"""Interpolate between samples, in the space of noise."""

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from src.diffusion.conditions import map_cond
from src.samplers.base import NoiseLevel, ddim_step
from src.samplers.pipeline import Pipeline
from src.tasks.base import Result, Task, TaskInput, require_input
from src.utils.errors import UserError
from src.utils.ranges import PositiveInt


@dataclass
class Interpolate(Task):
    r"""Interpolate between two samples, spherically between their DDIM-inverted noises.

    .. math:: z_u = \frac{\sin((1 - u)\theta)\, z_0 + \sin(u \theta)\, z_1}{\sin \theta}

    The inputs are taken in pairs; each pair gives a row of the grid, whose ends are the reconstructed inputs.

    Args:
        n_between: number of samples between the two of a pair.
        steps: number of DDIM steps in each direction.
        iterations: number of fixed-point iterations per inverted step.

    Source: Song, Meng, Ermon 2021, arXiv:2010.02502, section 5.3 and eq. 67.
    """

    n_between: PositiveInt = 8
    steps: PositiveInt = 50
    iterations: PositiveInt = 3

    def __post_init__(self) -> None:
        for name in ("n_between", "steps", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"task.{name} must be >= 1, got {getattr(self, name)}")

    def check(self, pipeline: Pipeline, inputs: TaskInput) -> None:
        """Refuse an input of another shape, and one that is not of pairs."""
        self.ends(pipeline, inputs)

    def ends(self, pipeline: Pipeline, inputs: TaskInput) -> Tensor:
        """The samples (N, C, *S), in pairs."""
        ends = require_input(inputs.truth if inputs.x is None else inputs.x, pipeline)
        if len(ends) < 2 or len(ends) % 2:
            raise UserError(f"input must be pairs of samples, got {len(ends)} sample(s); give 2, 4, ...")
        return ends

    def __call__(self, pipeline: Pipeline, inputs: TaskInput) -> Result:
        ends = self.ends(pipeline, inputs)
        times = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)[1:].clamp(max=0.999)
        levels = pipeline.sampler.noise_levels(times)
        latent = torch.cat([self.encode(pipeline, indices, ends, levels) for indices in pipeline.batches(len(ends))])
        u = torch.linspace(0, 1, self.n_between + 2)
        arcs = torch.cat([slerp(a, b, u) for a, b in latent.view(-1, 2, *pipeline.shape)])
        if pipeline.cond is not None:
            first = map_cond(lambda value: value[::2].repeat_interleave(len(u), 0), pipeline.cond)
            pipeline = replace(pipeline, cond=first)
        x = torch.cat([self.decode(pipeline, indices, arcs, levels) for indices in pipeline.batches(len(arcs))])
        reconstructed = x.view(-1, len(u), *pipeline.shape)[:, [0, -1]]
        error = (reconstructed - ends.view(-1, 2, *pipeline.shape)).square().mean().sqrt()
        info = {"ends": f"reconstructed to a root mean squared error of {pipeline.std_to_units(float(error)):.3g}"}
        return Result(x, cond=pipeline.cond, grid_columns=len(u), info=info)

    def encode(self, pipeline: Pipeline, indices: range, x: Tensor, levels: list[NoiseLevel]) -> Tensor:
        """Invert `decode` for the samples of these indices, from data to noise."""
        denoise = pipeline.denoise(indices)
        first = levels[0]
        x_0 = x[indices.start : indices.stop].to(pipeline.device)
        x_t = first.alpha * x_0
        for _ in range(self.iterations):
            x_t = first.alpha * x_0 + first.sigma * first.eps(x_t, denoise(x_t, first.t).x_0)
        for t, s in pairwise(levels):
            x_s = x_t
            for _ in range(self.iterations):  # solves ddim_step(x_s, s -> t) = x_t
                x_s = ddim_step(x_t, denoise(x_s, s.t).x_0, t, s)
            x_t = x_s
        return x_t.cpu()

    def decode(self, pipeline: Pipeline, indices: range, z: Tensor, levels: list[NoiseLevel]) -> Tensor:
        """Sample by deterministic DDIM from the noise of these indices."""
        denoise = pipeline.denoise(indices)
        x = z[indices.start : indices.stop].to(pipeline.device)
        for t, s in pairwise(reversed(levels)):
            x = ddim_step(x, denoise(x, t.t).x_0, t, s)
        return denoise(x, levels[0].t).x_0.cpu()


def slerp(a: Tensor, b: Tensor, u: Tensor) -> Tensor:
    """Interpolate spherically: points (len(u), ...) on the arc from a to b, or on the line if they are parallel."""
    cosine = (a * b).sum() / (a.norm() * b.norm())
    angle = torch.arccos(cosine.clamp(-1, 1))
    u = u.view(-1, *[1] * a.ndim)
    if torch.sin(angle) < 1e-4:
        return (1 - u) * a + u * b
    return (torch.sin((1 - u) * angle) * a + torch.sin(u * angle) * b) / torch.sin(angle)

"""Filling in by resampling: known elements are put in at each step, and steps are repeated until both parts agree."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from src.diffusion.operators import LinearOperator, Mask
from src.samplers.pipeline import Pipeline
from src.utils.errors import UserError
from src.utils.ranges import PositiveInt


@dataclass
class RePaint:
    r"""Sampling of the missing part, with the known part replaced by the measurement with fresh noise at each step.

    .. math:: x_s = m \odot (\alpha_s y + \sigma_s z) + (1 - m) \odot \text{step}(x_t)

    Every `jump` steps it goes back up as many by adding noise, so that each stretch is walked `repeats` times: what was
    filled in learns of what is known. Each step is a trajectory of its own, in which multistep samplers are the
    one-step methods that they begin with.

    Args:
        jump: steps to go back; the paper's j.
        repeats: how often each stretch is walked; the paper's r. 1 never goes back.

    Raises:
        UserError: for a measurement that is noisy or no mask.

    Source: Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1, and its code for where the jumps are.
    """

    jump: PositiveInt = 5
    repeats: PositiveInt = 5

    def __post_init__(self) -> None:
        if self.jump < 1 or self.repeats < 1:
            raise ValueError(f"jump and repeats are at least 1, not {self.jump} and {self.repeats}")

    def __call__(
        self, pipeline: Pipeline, indices: range, measurement: LinearOperator, y: Tensor, noise: float
    ) -> Tensor:
        if not isinstance(measurement, Mask) or noise > 0:
            raise UserError("method=repaint fills in what a mask hides, without noise; use method=ddnm or pigdm")
        sampler, draw, denoise = pipeline.sampler, pipeline.noise(indices), pipeline.denoise(indices)
        x_t = sampler.sample_prior(draw, torch.empty(len(indices), *pipeline.shape, device=pipeline.device))
        lowest = 1.0
        for t, s in pairwise(self.times(sampler.time_grid(sampler.schedule, sampler.steps, 1.0))):
            *_, end = sampler.trajectory(denoise, x_t, draw, times=torch.stack([t, s]))
            x_t = end.x_t
            if s < t:
                x_t = measurement(sampler.schedule.add_noise(y, s, draw(y))) + x_t - measurement(x_t)
            if s < lowest:
                lowest = float(s)
                if pipeline.on_step is not None:
                    pipeline.on_step(len(indices))
        return x_t

    def times(self, grid: Tensor) -> Tensor:
        """A falling grid with the ways back up put in; the first is from one step before the end."""
        last = len(grid) - 1
        left = {last - k: self.repeats - 1 for k in range(1, last - self.jump + 1, self.jump)}
        places = [0]
        while places[-1] < last:
            places.append(places[-1] + 1)
            if left.get(places[-1]):
                left[places[-1]] -= 1
                places.append(places[-1] - self.jump)
        return grid[places]

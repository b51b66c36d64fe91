"""The sampler of flow maps."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Interval

from src.samplers.base import NoiseLevel, Sampler, ddim_step, renoise


@dataclass
class FlowMapSampler(Sampler):
    r"""Steps of a flow map, exact at any length if the map is: one evaluation a step, from a single step on.

    .. math:: x_s = X(x_t, t, s') + \text{new noise from } s' \text{ to } s, \quad
              \sigma_{s'} / \alpha_{s'} = \sqrt{1 - \gamma^2}\, \sigma_s / \alpha_s

    Args:
        gamma: share of new noise after each step, in [0, 1]; 0 for the ODE, 1 for the multistep sampling of consistency
            models, which go to the data (s' = 0) each time. Losses that train s = 0 alone need 1.

    Source: Kim et al. 2023, arXiv:2310.02279, algorithm 3; gamma = 1: Song et al. 2023, arXiv:2303.01469, algorithm 1.
    """

    needs_flow_map = True

    gamma: Annotated[float, Interval(ge=0, le=1)] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"sampler.gamma must be in [0, 1], got {self.gamma}")

    def step(self, denoise, x_t, t, s, noise):
        if self.gamma == 0 or s.sigma == 0 or s.t == 0:
            return ddim_step(x_t, denoise(x_t, t, s), t, s)
        below = self.below(s)
        return renoise(ddim_step(x_t, denoise(x_t, t, below), t, below), below, s, noise)

    def below(self, s: NoiseLevel) -> NoiseLevel:
        """The noise level s' from which noise is added up to s."""
        if self.gamma == 1:
            return self.noise_levels(torch.zeros(1))[0]
        return self.level_at(s.half_log_snr - math.log1p(-(self.gamma**2)) / 2)

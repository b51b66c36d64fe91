r"""Single-step solvers of the probability-flow ODE.

On every schedule it is :math:`dx = \hat x_0\, d\alpha + \hat\epsilon\, d\sigma`.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from src.samplers.base import Noise, NoiseLevel, Sampler, ddim_step, renoise


@dataclass
class Euler(Sampler):
    r"""Euler's method: :math:`x_s = x_t + (\alpha_s - \alpha_t) \hat x_0 + (\sigma_s - \sigma_t) \hat\epsilon`.

    First order. With `schedule=flow` it is :math:`x_t + (s - t)\, u`; on every schedule it equals DDIM with eta = 0.

    Source: Karras et al. 2022, arXiv:2206.00364, eq. 3 and 4; Liu et al. 2023, arXiv:2209.03003, section 2.1.
    """

    def step(self, denoise, x_t, t, s, noise):
        return ddim_step(x_t, denoise(x_t, t), t, s)


@dataclass
class Heun(Sampler):
    r"""The trapezoidal rule with the stochastic churn of EDM. Second order; two evaluations a step, one in the last.

    .. math:: x_s = x_t + (\alpha_s - \alpha_t) \tfrac12 (\hat x_0 + \hat x_0') +
                    (\sigma_s - \sigma_t) \tfrac12 (\hat\epsilon + \hat\epsilon')

    with the primed predictions made at the point that Euler's step reaches. Where :math:`\alpha = 1` this is the method
    of EDM. On other schedules :class:`HeunVE` is that, applied to :math:`x / \alpha`; this one corrects Euler's step by
    :math:`\alpha_t / \alpha_s` times as much, which stays bounded from pure noise on (see docs/samplers.md).

    Before each step noise is added that raises :math:`\sigma / \alpha` by the factor :math:`1 + \gamma`,
    :math:`\gamma = \min(S_S_\text{churn} / \text{steps}, \sqrt 2 - 1)`, never beyond the noise of t = 1.

    Args:
        s_churn: :math:`S_S_\text{churn}`, amount of churn in all steps together; 0 for a deterministic sampler.
        s_min, s_max: noise levels :math:`\sigma / \alpha` between which noise is added.
        s_noise: factor of the standard deviation of the added noise.

    Source: Karras et al. 2022, arXiv:2206.00364, algorithms 1 and 2.
    """

    s_churn: Annotated[float, Ge(0)] = 0.0
    s_min: Annotated[float, Ge(0)] = 0.0
    s_max: Annotated[float, Ge(0), Le(math.inf)] = math.inf
    s_noise: Annotated[float, Gt(0)] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.s_churn < 0 or self.s_noise <= 0:
            raise ValueError(
                f"sampler.s_churn must be >= 0 and sampler.s_noise must be > 0, got {self.s_churn} and {self.s_noise}"
            )

    def step(self, denoise, x_t, t, s, noise):
        x_t, t = self.add_churn(x_t, t, noise)
        x_0 = denoise(x_t, t)
        x_s = ddim_step(x_t, x_0, t, s)
        if s.sigma == 0:
            return x_s
        return x_s + self.correction_weight(t, s) * (denoise(x_s, s) - x_0)

    def correction_weight(self, t: NoiseLevel, s: NoiseLevel) -> float:
        """The weight of the change of the predicted data in the correction of Euler's step."""
        return (s.alpha * t.sigma / s.sigma - t.alpha) / 2

    def add_churn(self, x_t: Tensor, t: NoiseLevel, noise: Noise) -> tuple[Tensor, NoiseLevel]:
        """The sample and its noise level after the churn."""
        gamma = min(self.s_churn / self.steps, math.sqrt(2) - 1)
        ratio = math.exp(-t.half_log_snr)
        if gamma == 0 or not self.s_min <= ratio <= self.s_max or t.t >= 1:
            return x_t, t
        churned = self.level_at(t.half_log_snr - math.log1p(gamma))
        return renoise(x_t, t, churned, lambda x: self.s_noise * noise(x)), churned


@dataclass
class HeunVE(Heun):
    r"""Heun's method for :math:`y = x / \alpha` over :math:`\tilde\sigma = \sigma / \alpha`, as in EDM.

    .. math:: y_s = y_t + (\tilde\sigma_s - \tilde\sigma_t) \tfrac12 (\hat\epsilon + \hat\epsilon')

    Use it with time grids of moderate ratios of noise levels, such as `karras` with 15 steps or more: it overshoots by
    the ratio of a step, which is large in the first steps of a variance-preserving schedule on other grids.
    The step from pure noise is that of :class:`Heun`.

    Source: Karras et al. 2022, arXiv:2206.00364, algorithm 2.
    """

    def correction_weight(self, t, s):
        return super().correction_weight(t, s) * (s.alpha / t.alpha if t.alpha > 0 else 1.0)


@dataclass
class Restart(Heun):
    r"""Heun's method with restarts: after `sigma_min` is passed, noise is added up to `sigma_max`, `restarts` times.

    Each restart contracts the accumulated error, as in a stochastic sampler, while the steps remain those of an ODE.

    Args:
        sigma_min, sigma_max: noise levels :math:`\sigma / \alpha` at the ends of the restart interval.
        restarts: number of restarts.
        steps_per_restart: steps from `sigma_max` to `sigma_min`, on the time grid of EDM.

    Source: Xu et al. 2023, arXiv:2306.14878, algorithm 1.
    """

    sigma_min: Annotated[float, Gt(0)] = 0.2
    sigma_max: Annotated[float, Gt(0)] = 1.0
    restarts: Annotated[int, Ge(0)] = 2
    steps_per_restart: Annotated[int, Ge(1)] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"sampler must have 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")
        if self.restarts < 0 or self.steps_per_restart < 1:
            raise ValueError(
                "sampler.restarts must be >= 0 and sampler.steps_per_restart must be >= 1, "
                f"got {self.restarts} and {self.steps_per_restart}"
            )

    def times(self, start: float = 1.0) -> Tensor:
        """The time grid, with the restarts inserted after it passes `sigma_min`."""
        grid = super().times(start)
        high, low = (self.level_at(-math.log(v)).t for v in (self.sigma_max, self.sigma_min))
        below = (grid > low).sum()
        if grid[0] <= high or below == len(grid):
            return grid
        ends = self.sigma_max ** (1 / 7), self.sigma_min ** (1 / 7)
        levels = torch.linspace(*ends, self.steps_per_restart + 1, dtype=torch.float64)[1:-1] ** 7
        down = torch.cat([high[None], self.schedule.inverse_log_snr(-2 * levels.log()).detach(), low[None]])
        return torch.cat([grid[:below], low[None], *[down] * self.restarts, grid[below:][grid[below:] < low]])


@dataclass
class DPMpp2S(Sampler):
    r"""DPM-Solver++ (2S): one evaluation at t and one halfway to s in log-SNR. Second order; two evaluations a step.

    .. math:: u = \frac{\sigma_m}{\sigma_t} x_t + \alpha_m (1 - e^{-h/2})\, \hat x_0(x_t), \quad
              x_s = \frac{\sigma_s}{\sigma_t} x_t + \alpha_s (1 - e^{-h})\, \hat x_0(u)

    with h the growth of :math:`\log(\alpha / \sigma)`. From pure noise, and to clean data, h is infinite and the step
    is Euler's.

    Source: Lu et al. 2022, arXiv:2211.01095, algorithm 1 with r = 1/2.
    """

    def step(self, denoise, x_t, t, s, noise):
        x_0 = denoise(x_t, t)
        h = s.half_log_snr - t.half_log_snr
        if math.isinf(h):
            return ddim_step(x_t, x_0, t, s)
        middle = self.level_at(t.half_log_snr + h / 2)
        return ddim_step(x_t, denoise(ddim_step(x_t, x_0, t, middle), middle), t, s)

r"""Solvers of the probability-flow ODE that hold a mixture of predictions of the noise constant over a step.

With :math:`\epsilon'` for the mixture, :math:`x_s = \frac{\alpha_s}{\alpha_t} x_t + \left(\sigma_s -
\frac{\alpha_s}{\alpha_t} \sigma_t\right) \epsilon'`. An error of the noise is magnified by
:math:`\alpha_s / \alpha_t`, so a step from a level with hardly any signal is Euler's, which follows the data.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor

from src.samplers.base import DenoiserMemory, NoiseLevel, Sampler, ddim_step
from src.samplers.ode import Heun

HARDLY_ANY_SIGNAL = 1e-3  # alpha

# Weights of Adams and Bashforth for equal steps, the newest prediction last, by their number.
EQUAL_STEPS = {
    1: (1.0,), 2: (-1 / 2, 3 / 2), 3: (5 / 12, -16 / 12, 23 / 12), 4: (-9 / 24, 37 / 24, -59 / 24, 55 / 24),
}  # fmt: skip


@dataclass
class GradientEstimation(Sampler):
    r"""DDIM with :math:`\epsilon' = \gamma \hat\epsilon + (1 - \gamma)\, \hat\epsilon_\text{previous}`. First order.

    Args:
        gamma: 1 is DDIM, above 1 the noise is extrapolated.

    Source: Permenter, Yuan 2023, arXiv:2306.04848, section 5 and algorithm 2.
    """

    gamma: Annotated[float, Gt(0)] = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma <= 0:
            raise ValueError(f"sampler.gamma must be > 0, got {self.gamma}")

    def step(self, denoise, x_t, t, s, noise):
        x_0 = denoise(x_t, t)
        eps = t.eps(x_t, x_0)
        previous = denoise.memory.get("eps", eps)
        denoise.memory["eps"] = eps
        return noise_step(x_t, x_0, (self.gamma - 1) * (eps - previous), t, s)


@dataclass
class PLMS(Sampler):
    """Pseudo linear multistep method: the weights of Adams and Bashforth of order 4 for equal steps of t.

    The first step is Heun's, the next two have the orders 2 and 3. Second order; one evaluation a step, two in the
    first.

    Source: Liu et al. 2022 (PNDM), arXiv:2202.09778, eq. 12; this start: latent diffusion (Rombach et al. 2022,
    arXiv:2112.10752), code.
    """

    begins: ClassVar[int] = 1  # number of steps before the multistep method

    def step(self, denoise, x_t, t, s, noise):
        x_0 = denoise(x_t, t)
        if t.alpha < HARDLY_ANY_SIGNAL:
            return ddim_step(x_t, x_0, t, s)
        history = [*denoise.memory.get("eps", []), t.eps(x_t, x_0)][-4:]
        denoise.memory["eps"] = history
        if len(history) <= self.begins and s.sigma > 0:
            mixture = self.begin(denoise, x_t, x_0, t, s)
        else:
            mixture = sum(w * eps for w, eps in zip(EQUAL_STEPS[len(history)], history, strict=True))
        return noise_step(x_t, x_0, mixture - history[-1], t, s)

    def begin(self, denoise: DenoiserMemory, x_t: Tensor, x_0: Tensor, t: NoiseLevel, s: NoiseLevel) -> Tensor:
        """The mixture of a step without enough history."""
        x_s = ddim_step(x_t, x_0, t, s)
        return (t.eps(x_t, x_0) + s.eps(x_s, denoise(x_s, s))) / 2


@dataclass
class PNDM(PLMS):
    """Pseudo numerical method: :class:`PLMS` after three pseudo Runge-Kutta steps of four evaluations each.

    Second order; nine evaluations more than steps.

    Source: Liu et al. 2022, arXiv:2202.09778, eq. 13 and algorithm 2 (F-PNDM).
    """

    begins: ClassVar[int] = 3

    def begin(self, denoise, x_t, x_0, t, s):
        (middle,) = self.noise_levels((t.t + s.t)[None] / 2)
        total = first = eps = t.eps(x_t, x_0)
        for level, weight in (middle, 2), (middle, 2), (s, 1):
            x = noise_step(x_t, x_0, eps - first, t, level)
            eps = level.eps(x, denoise(x, level))
            total = total + weight * eps
        return total / 6


@dataclass
class DPM2(Heun):
    r"""The midpoint method in log-SNR, with the churn of :class:`Heun`: :math:`\epsilon'` is predicted halfway.

    Second order; two evaluations a step, one in the last. Without churn it is DPM-Solver-2.

    Source: Lu et al. 2022, arXiv:2206.00927, algorithm 1; with churn the code of k-diffusion, `sample_dpm_2`.
    """

    def step(self, denoise, x_t, t, s, noise):
        x_t, t = self.add_churn(x_t, t, noise)
        x_0 = denoise(x_t, t)
        if s.sigma == 0 or t.alpha < HARDLY_ANY_SIGNAL:
            return ddim_step(x_t, x_0, t, s)
        h = s.half_log_snr - t.half_log_snr
        middle = self.level_at(t.half_log_snr + h / 2)
        x = ddim_step(x_t, x_0, t, middle)
        return noise_step(x_t, x_0, middle.eps(x, denoise(x, middle)) - t.eps(x_t, x_0), t, s)


@dataclass
class DPMSolver3(Sampler):
    r"""DPM-Solver-3: two more evaluations at a third and two thirds of the step in log-SNR. Third order.

    .. math:: u = \operatorname{DDIM}(x_t, r), \quad
              v = \operatorname{DDIM}(x_t, 2 r) - 2 \sigma_{2 r} \left(\tfrac{e^{2 h / 3} - 1}{2 h / 3} - 1\right) D_u,
              \quad x_s = \operatorname{DDIM}(x_t, s) - \tfrac32 \sigma_s \left(\tfrac{e^h - 1}{h} - 1\right) D_v

    with h the growth of :math:`\log(\alpha / \sigma)` and D the change of the predicted noise since t. Three
    evaluations a step, one in the last.

    Source: Lu et al. 2022, arXiv:2206.00927, algorithm 2.
    """

    def step(self, denoise, x_t, t, s, noise):
        x_0 = denoise(x_t, t)
        if s.sigma == 0 or t.alpha < HARDLY_ANY_SIGNAL:
            return ddim_step(x_t, x_0, t, s)
        h = s.half_log_snr - t.half_log_snr
        eps, change = t.eps(x_t, x_0), torch.zeros_like(x_t)
        for level, r, weight in (
            (self.level_at(t.half_log_snr + h / 3), 1 / 3, 0.0),
            (self.level_at(t.half_log_snr + 2 * h / 3), 2 / 3, 2.0),
            (s, 1.0, 1.5),
        ):
            x = ddim_step(x_t, x_0, t, level) - weight * level.sigma * (math.expm1(r * h) / (r * h) - 1) * change
            change = level.eps(x, denoise(x, level)) - eps if level is not s else change
        return x


def noise_step(x_t: Tensor, x_0: Tensor, change: Tensor, t: NoiseLevel, s: NoiseLevel) -> Tensor:
    """Step from x_t to x_s with the predicted noise and a change of it."""
    x_s = ddim_step(x_t, x_0, t, s)
    if t.alpha < HARDLY_ANY_SIGNAL:
        return x_s
    return x_s + (s.sigma - s.alpha / t.alpha * t.sigma) * change

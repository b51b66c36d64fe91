r"""Discrete schedules: T noise levels at t = k / T, k = 1 .. T, exact there and interpolated in between.

A :class:`DiscreteVP` is given by its variances :math:`\beta_k` (DDPM) and preserves the variance; a
:class:`DiscreteVE` is given by its noise levels :math:`\sigma_k` (NCSN, EDM), with :math:`\alpha = 1`. A new schedule
is a subclass whose constructor computes its betas or its sigmas; those of betas are in
:mod:`src.diffusion.beta_schedules`.
"""

import math
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from src.diffusion.log_snr_table import LogSNRTable
from src.diffusion.schedules import Positive, Schedule, check_shift, variance_preserving

Steps = Annotated[int, Ge(1)]


class DiscreteVP(Schedule):
    r"""A discrete variance-preserving process given by its :math:`\beta_k`.

    .. math:: \alpha_{k/T}^2 = \prod_{i \le k} (1 - \beta_i), \quad \sigma^2 = 1 - \alpha^2

    Args:
        betas: (T,) variances in (0, 1), from :math:`\beta_1` on.
        zero_terminal_snr: shift and scale :math:`\alpha_k` so that the last is 0 and the first unchanged.
        shift: s, which multiplies :math:`\sigma / \alpha`, so that the log-SNR falls by :math:`2 \log s`. 1 for none;
            for images of width d a multiple of d / 64.

    Source: Ho et al. 2020, arXiv:2006.11239, eq. 2 and 4. Zero terminal SNR: Lin et al. 2024, arXiv:2305.08891,
    algorithm 1. Shift: Hoogeboom et al. 2023, arXiv:2301.11093, eq. 4.
    """

    def __init__(self, betas: Float[Tensor, " steps"], zero_terminal_snr: bool = False, shift: float = 1.0):
        super().__init__()
        betas = torch.as_tensor(betas, dtype=torch.float64)
        outside = (~((betas > 0) & (betas < 1))).nonzero()
        if len(outside):
            k = int(outside[0])
            raise ValueError(f"all betas must be in (0, 1), got beta_{k + 1} = {betas[k]:.4g}")
        if zero_terminal_snr and len(betas) < 2:
            raise ValueError("schedule.zero_terminal_snr=true needs schedule.steps >= 2")
        self.steps = len(betas)
        log_alpha_2 = torch.log1p(-betas).cumsum(0)
        if zero_terminal_snr:
            alpha = (log_alpha_2 / 2).exp()
            log_alpha_2 = 2 * ((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])).log()
        # Plain attributes, not buffers: moving the module to a device or to half precision must not touch them.
        log_snr = log_alpha_2 - torch.log(-torch.expm1(log_alpha_2))
        self.table = LogSNRTable(log_snr - 2 * torch.tensor(check_shift(shift), dtype=torch.float64).log())

    def alpha_sigma(self, t):
        return variance_preserving(self.log_snr(t))

    def log_snr(self, t):
        return self.table(t)

    def inverse_log_snr(self, log_snr):
        return self.table.inverse(log_snr)

    @property
    def betas(self) -> Float[Tensor, " steps"]:
        r""":math:`\beta_k = 1 - \alpha_{k/T}^2 / \alpha_{(k-1)/T}^2`, after `zero_terminal_snr` and `shift`."""
        k = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
        return self.transition(k[:-1], k[1:])[1] ** 2


class DiscreteVE(Schedule):
    r"""A discrete variance-exploding process, :math:`x_{k/T} = x_0 + \sigma_k \epsilon`.

    Args:
        sigmas: (T,) increasing noise levels > 0.

    Source: Song, Ermon 2019, arXiv:1907.05600, section 3.
    """

    def __init__(self, sigmas: Float[Tensor, " steps"]):
        super().__init__()
        sigmas = torch.as_tensor(sigmas, dtype=torch.float64)
        below = torch.cat([sigmas.new_zeros(1), sigmas[:-1]])
        outside = (~((sigmas > below) & sigmas.isfinite())).nonzero()
        if len(outside):
            k = int(outside[0])
            raise ValueError(
                f"noise levels must increase from 0, got sigma_{k + 1} = {sigmas[k]:.4g} after {below[k]:.4g}"
            )
        self.steps = len(sigmas)
        self.table = LogSNRTable(-2 * sigmas.log())

    def alpha_sigma(self, t):
        sigma = torch.exp(-self.log_snr(t) / 2)
        return torch.ones_like(sigma), sigma

    def log_snr(self, t):
        return self.table(t)

    def inverse_log_snr(self, log_snr):
        return self.table.inverse(log_snr)


class VESDE(DiscreteVE):
    r"""Geometric noise levels: those of NCSN with few steps, the variance-exploding SDE with many.

    .. math:: \sigma_k = \sigma_\min (\sigma_\max / \sigma_\min)^{(k - 1) / (T - 1)}

    Source: Song, Ermon 2019, arXiv:1907.05600, section 4; Song et al. 2021, arXiv:2011.13456, eq. 31 and appendix C.
    """

    def __init__(self, steps: Steps = 1000, sigma_min: Positive = 0.01, sigma_max: Positive = 50.0):
        _check_sigmas(steps, sigma_min, sigma_max)
        super().__init__(geomspace(sigma_min, sigma_max, steps))


class EDMSchedule(DiscreteVE):
    r"""The noise levels of EDM, so that equal steps of t are its time steps.

    .. math:: \sigma_k = \left(\sigma_\min^{1/\rho} + \tfrac{k - 1}{T - 1}
              (\sigma_\max^{1/\rho} - \sigma_\min^{1/\rho})\right)^\rho

    Source: Karras et al. 2022, arXiv:2206.00364, eq. 5 (there indexed from the noisy end).
    """

    def __init__(
        self, steps: Steps = 1000, sigma_min: Positive = 0.002, sigma_max: Positive = 80.0, rho: Positive = 7.0
    ):
        _check_sigmas(steps, sigma_min, sigma_max)
        if rho <= 0:
            raise ValueError(f"schedule.rho must be > 0, got {rho}")
        low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
        super().__init__(torch.linspace(low, high, steps, dtype=torch.float64) ** rho)


class AdditiveSchedule(DiscreteVE):
    r"""The textbook process :math:`x_k = x_{k-1} + \text{scale} \cdot z_k`, with
    :math:`\sigma_k = \text{scale} \sqrt{k}`.
    """

    def __init__(self, steps: Steps = 10, scale: Positive = 0.1):
        check_steps(steps)
        super().__init__(scale * torch.arange(1, steps + 1, dtype=torch.float64).sqrt())


def geomspace(low: float, high: float, steps: int) -> Tensor:
    """A geometric sequence of `steps` numbers from low to high."""
    return torch.linspace(math.log(low), math.log(high), steps, dtype=torch.float64).exp()


def check_steps(steps: int, least: int = 1) -> None:
    """Raise ValueError if there are fewer than `least` steps."""
    if steps < least:
        raise ValueError(f"schedule.steps must be >= {least}, got {steps}")


def _check_sigmas(steps: int, sigma_min: float, sigma_max: float) -> None:
    check_steps(steps, 2)
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"schedule must have 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")

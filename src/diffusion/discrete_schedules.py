r"""Discrete processes: T noise levels at t = k / T, k = 1 .. T, exact there and interpolated between.

A table of variances :math:`\beta_k` preserves the variance (DDPM); a ladder of noise levels :math:`\sigma_k` keeps the
signal and adds noise (NCSN, EDM). A new one is a function that gives its T betas, or its T sigmas.
"""

import inspect
import math
from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from src.diffusion.log_snr_table import LogSNRTable
from src.diffusion.schedules import Positive, Schedule, check_betas, check_shift, variance_preserving

Steps = Annotated[int, Ge(1)]


class DiscreteVP(Schedule):
    r"""A discrete variance-preserving process with the variances :math:`\beta_k`.

    .. math:: \alpha_{k/T}^2 = \prod_{i \le k} (1 - \beta_i), \quad \sigma^2 = 1 - \alpha^2

    Args:
        betas: (T,) variances in (0, 1); :math:`\beta_1` comes first.
        zero_terminal_snr: shift and scale :math:`\alpha_k` so that the last is 0 and the first stays.
        shift: s, which multiplies :math:`\sigma / \alpha`: the log-SNR falls by :math:`2 \log s`. 1 is none; for images
            d wide a multiple of d / 64.

    Source: Ho et al. 2020, arXiv:2006.11239, eq. 2 and 4. Zero terminal SNR: Lin et al. 2024, arXiv:2305.08891,
    algorithm 1. Shift: Hoogeboom et al. 2023, arXiv:2301.11093, eq. 4.
    """

    def __init__(self, betas: Float[Tensor, " steps"], zero_terminal_snr: bool = False, shift: float = 1.0):
        super().__init__()
        betas = torch.as_tensor(betas, dtype=torch.float64)
        outside = (~((betas > 0) & (betas < 1))).nonzero()
        if len(outside):
            k = int(outside[0])
            raise ValueError(f"each beta lies between 0 and 1, but beta_{k + 1} = {betas[k]:.4g}")
        if zero_terminal_snr and len(betas) < 2:
            raise ValueError("schedule.zero_terminal_snr=true needs at least 2 steps")
        self.steps = len(betas)
        log_alpha_2 = torch.log1p(-betas).cumsum(0)
        if zero_terminal_snr:
            alpha = (log_alpha_2 / 2).exp()
            log_alpha_2 = 2 * ((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])).log()
        # Plain attributes, not buffers: moving the module to a device or to half precision must not touch them.
        log_snr = log_alpha_2 - torch.log(-torch.expm1(log_alpha_2))
        self.nodes = LogSNRTable(log_snr - 2 * torch.tensor(check_shift(shift), dtype=torch.float64).log())

    def alpha_sigma(self, t):
        return variance_preserving(self.log_snr(t))

    def log_snr(self, t):
        return self.nodes(t)

    def inverse_log_snr(self, log_snr):
        return self.nodes.inverse(log_snr)

    @property
    def betas(self) -> Float[Tensor, " steps"]:
        r""":math:`\beta_k = 1 - \alpha_{k/T}^2 / \alpha_{(k-1)/T}^2`, with all options applied."""
        k = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
        return self.transition(k[:-1], k[1:])[1] ** 2


class DiscreteVE(Schedule):
    r"""A discrete variance-exploding process: :math:`x_{k/T} = x_0 + \sigma_k \epsilon`.

    Args:
        sigmas: (T,) growing noise levels above 0.

    Source: Song, Ermon 2019, arXiv:1907.05600, section 3.
    """

    def __init__(self, sigmas: Float[Tensor, " steps"]):
        super().__init__()
        sigmas = torch.as_tensor(sigmas, dtype=torch.float64)
        below = torch.cat([sigmas.new_zeros(1), sigmas[:-1]])
        outside = (~((sigmas > below) & sigmas.isfinite())).nonzero()
        if len(outside):
            k = int(outside[0])
            raise ValueError(f"noise levels grow from 0, but sigma_{k + 1} = {sigmas[k]:.4g} after {below[k]:.4g}")
        self.steps = len(sigmas)
        self.nodes = LogSNRTable(-2 * sigmas.log())

    def alpha_sigma(self, t):
        sigma = torch.exp(-self.log_snr(t) / 2)
        return torch.ones_like(sigma), sigma

    def log_snr(self, t):
        return self.nodes(t)

    def inverse_log_snr(self, log_snr):
        return self.nodes.inverse(log_snr)


# ---- ladders ----


def VESDE(steps: Steps = 1000, sigma_min: Positive = 0.01, sigma_max: Positive = 50.0) -> DiscreteVE:
    r"""Geometric noise levels: those of NCSN with few steps, the variance-exploding SDE with many.

    .. math:: \sigma_k = \sigma_\min (\sigma_\max / \sigma_\min)^{(k - 1) / (T - 1)}

    Source: Song, Ermon 2019, arXiv:1907.05600, section 4; Song et al. 2021, arXiv:2011.13456, eq. 31 and appendix C.
    """
    _check_sigmas(steps, sigma_min, sigma_max)
    return DiscreteVE(geomspace(sigma_min, sigma_max, steps))


def EDMSchedule(
    steps: Steps = 1000, sigma_min: Positive = 0.002, sigma_max: Positive = 80.0, rho: Positive = 7.0
) -> DiscreteVE:
    r"""The noise levels of EDM, so that equal steps of t are its time steps.

    .. math:: \sigma_k = \left(\sigma_\min^{1/\rho} + \tfrac{k - 1}{T - 1}
              (\sigma_\max^{1/\rho} - \sigma_\min^{1/\rho})\right)^\rho

    Source: Karras et al. 2022, arXiv:2206.00364, eq. 5 (there counted from the other end).
    """
    _check_sigmas(steps, sigma_min, sigma_max)
    if rho <= 0:
        raise ValueError(f"schedule.rho is above 0, not {rho}")
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return DiscreteVE(torch.linspace(low, high, steps, dtype=torch.float64) ** rho)


def AdditiveSchedule(steps: Steps = 10, scale: Positive = 0.1) -> DiscreteVE:
    r"""The textbook process :math:`x_k = x_{k-1} + \text{scale} \cdot z_k`, so that
    :math:`\sigma_k = \text{scale} \sqrt{k}`.
    """
    _check_steps(steps)
    return DiscreteVE(scale * torch.arange(1, steps + 1, dtype=torch.float64).sqrt())


# ---- tables ----


def table(betas: Callable[..., Tensor]) -> Callable[..., DiscreteVP]:
    """Make a function that gives betas give their Table, and take the options of that beside its own arguments."""

    def make(*args, zero_terminal_snr: bool = False, shift: Positive = 1.0, **kwargs):  # type: ignore[no-untyped-def]
        return DiscreteVP(betas(*args, **kwargs), zero_terminal_snr, shift)

    own, options = inspect.signature(betas), inspect.signature(make).parameters
    named = [options["zero_terminal_snr"], options["shift"]]
    make.__name__, make.__qualname__, make.__module__ = betas.__name__, betas.__qualname__, betas.__module__
    make.__doc__ = betas.__doc__
    make.__signature__ = own.replace(parameters=[*own.parameters.values(), *named], return_annotation=DiscreteVP)  # type: ignore[attr-defined]
    make.__annotations__ = {**make.__annotations__, **betas.__annotations__, "return": DiscreteVP}
    return make


@table
def LinearSchedule(steps: Steps = 1000, beta_min: Positive = 1e-4, beta_max: Positive = 0.02):
    r"""Betas that grow linearly from `beta_min` to `beta_max`.

    Here and below these two are stated for T = 1000 and scaled by 1000 / T otherwise, so that the amount of noise at
    the end stays.

    Source: Ho et al. 2020, arXiv:2006.11239, section 4.
    """
    _check_steps(steps)
    return rescale_to_steps(torch.linspace(beta_min, beta_max, steps, dtype=torch.float64), "linear")


@table
def QuadraticSchedule(steps: Steps = 1000, beta_min: Positive = 1e-4, beta_max: Positive = 0.02):
    r"""Betas whose square roots grow linearly.

    Source: "quad" in the code of Ho et al. 2020; as "scaled linear", from 0.00085 to 0.012, in latent diffusion
    (Rombach et al. 2022, arXiv:2112.10752).
    """
    _check_steps(steps)
    check_betas(beta_min, beta_max)
    return rescale_to_steps(torch.linspace(beta_min**0.5, beta_max**0.5, steps, dtype=torch.float64) ** 2, "quadratic")


@table
def ConstantSchedule(steps: Steps = 1000, beta: Positive = 0.01):
    r"""Constant betas, so that :math:`\alpha_t^2` decays exponentially.

    Source: Ho et al. 2020, arXiv:2006.11239, section 4 (compared there).
    """
    _check_steps(steps)
    return rescale_to_steps(torch.full((steps,), beta, dtype=torch.float64), "constant")


@table
def ExponentialSchedule(steps: Steps = 1000, beta_min: Positive = 1e-4, beta_max: Positive = 0.05):
    r"""Betas that grow geometrically: :math:`\beta_k = \beta_\min (\beta_\max / \beta_\min)^{(k-1)/(T-1)}`."""
    _check_steps(steps)
    check_betas(beta_min, beta_max)
    return rescale_to_steps(geomspace(beta_min, beta_max, steps), "exponential")


@table
def TanhSchedule(steps: Steps = 1000, beta_min: Positive = 1e-4, beta_max: Positive = 0.02, width: Positive = 3.0):
    r"""Betas that grow as :math:`\frac12 (1 + \tanh u)`, u from -width to width.

    Since :math:`\frac12 (1 + \tanh u) = \operatorname{sigmoid}(2u)`, this is the schedule that other libraries call
    "sigmoid" of the betas. Source: Xu et al. 2022 (GeoDiff), arXiv:2203.02923, code.
    """
    _check_steps(steps)
    rise = (1 + torch.linspace(-width, width, steps, dtype=torch.float64).tanh()) / 2
    return rescale_to_steps(beta_min + (beta_max - beta_min) * rise, "tanh")


@table
def CosineSchedule(steps: Steps = 1000, offset: Annotated[float, Ge(0)] = 0.008, beta_max: Positive = 0.999):
    r"""A squared cosine for :math:`\alpha^2`, which spends more time at medium noise.

    .. math:: \alpha_t^2 = f(t) / f(0), \quad f(t) = \cos^2\left(\frac{t + s}{1 + s} \frac{\pi}{2}\right), \quad
              \beta_k = \min(1 - \alpha_{k/T}^2 / \alpha_{(k-1)/T}^2,\ \beta_\max)

    Source: Nichol, Dhariwal 2021, arXiv:2102.09672, eq. 17.
    """
    _check_steps(steps)
    nodes = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return betas_from_alpha_bar(torch.cos((nodes + offset) / (1 + offset) * torch.pi / 2) ** 2, beta_max)


@table
def SigmoidSchedule(
    steps: Steps = 1000,
    start: float = -3.0,
    end: float = 3.0,
    tau: Positive = 1.0,
    beta_max: Positive = 0.999,
):
    r"""A sigmoid for :math:`\alpha^2`, flat at both ends.

    .. math:: \alpha_t^2 = \frac{f(1) - f(t)}{f(1) - f(0)}, \quad
              f(t) = \operatorname{sigmoid}\left(\frac{a + t (b - a)}{\tau}\right)

    Args:
        steps: T.
        start, end: a and b.
        tau: temperature.
        beta_max: largest variance.

    Source: Jabri et al. 2023, arXiv:2212.11972, appendix B (algorithm 6).
    """
    _check_steps(steps)
    f = torch.sigmoid(torch.linspace(start, end, steps + 1, dtype=torch.float64) / tau)
    return betas_from_alpha_bar(f[-1] - f, beta_max)


def geomspace(low: float, high: float, steps: int) -> Tensor:
    """From low to high by equal factors."""
    return torch.linspace(math.log(low), math.log(high), steps, dtype=torch.float64).exp()


def betas_from_alpha_bar(alpha_2: Tensor, beta_max: float) -> Tensor:
    r"""The betas of :math:`\alpha^2` at k = 0 .. T, up to a common factor."""
    return (1 - alpha_2[1:] / alpha_2[:-1]).clamp(max=beta_max)


def rescale_to_steps(betas: Tensor, name: str) -> Tensor:
    """Betas stated for 1000 steps, for as many as they are."""
    betas = betas * (1000 / len(betas))
    if betas.max() >= 1:
        raise ValueError(
            f"schedule.steps={len(betas)} is too few for a {name} schedule with betas up to "
            f"{betas.max() * len(betas) / 1000:.3g}: the largest would be {betas.max():.3g}. "
            f"Use at least {int(betas.max() * len(betas)) + 1} steps, or schedule=cosine"
        )
    return betas


def _check_steps(steps: int, least: int = 1) -> None:
    """Refuse a table without entries."""
    if steps < least:
        raise ValueError(f"schedule.steps is at least {least}, not {steps}")


def _check_sigmas(steps: int, sigma_min: float, sigma_max: float) -> None:
    """Refuse a ladder that does not climb."""
    _check_steps(steps, 2)
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"0 < schedule.sigma_min < schedule.sigma_max is needed, not {sigma_min} and {sigma_max}")

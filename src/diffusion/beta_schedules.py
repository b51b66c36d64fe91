r"""Discrete variance-preserving schedules by their variances :math:`\beta_k`, k = 1 .. T.

All take `zero_terminal_snr` and `shift`; see :class:`src.diffusion.discrete_schedules.DiscreteVP`.
"""

from typing import Annotated

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from src.diffusion.discrete_schedules import DiscreteVP, Steps, check_steps, geomspace
from src.diffusion.schedules import Positive, check_betas


class LinearSchedule(DiscreteVP):
    r"""Betas that increase linearly from `beta_min` to `beta_max`.

    Here and below both are stated for T = 1000 and multiplied by 1000 / T otherwise, so that the noise at t = 1 does
    not depend on T.

    Source: Ho et al. 2020, arXiv:2006.11239, section 4.
    """

    def __init__(
        self, steps: Steps = 1000, beta_min: Positive = 1e-4, beta_max: Positive = 0.02,
        zero_terminal_snr: bool = False, shift: Positive = 1.0,
    ):  # fmt: skip
        check_steps(steps)
        betas = torch.linspace(beta_min, beta_max, steps, dtype=torch.float64)
        super().__init__(rescale_to_steps(betas, "linear"), zero_terminal_snr, shift)


class QuadraticSchedule(DiscreteVP):
    r"""Betas whose square roots increase linearly.

    Source: "quad" in the code of Ho et al. 2020.
    """

    def __init__(
        self, steps: Steps = 1000, beta_min: Positive = 1e-4, beta_max: Positive = 0.02,
        zero_terminal_snr: bool = False, shift: Positive = 1.0,
    ):  # fmt: skip
        check_steps(steps)
        check_betas(beta_min, beta_max)
        betas = torch.linspace(beta_min**0.5, beta_max**0.5, steps, dtype=torch.float64) ** 2
        super().__init__(rescale_to_steps(betas, "quadratic"), zero_terminal_snr, shift)


class ScaledLinearSchedule(QuadraticSchedule):
    r""":class:`QuadraticSchedule` from 0.00085 to 0.012.

    Source: latent diffusion (Rombach et al. 2022, arXiv:2112.10752), code.
    """

    def __init__(
        self, steps: Steps = 1000, beta_min: Positive = 0.00085, beta_max: Positive = 0.012,
        zero_terminal_snr: bool = False, shift: Positive = 1.0,
    ):  # fmt: skip
        super().__init__(steps, beta_min, beta_max, zero_terminal_snr, shift)


class ConstantSchedule(DiscreteVP):
    r"""Constant betas, so that :math:`\alpha_t^2` decays exponentially.

    Source: Ho et al. 2020, arXiv:2006.11239, section 4 (compared there).
    """

    def __init__(
        self, steps: Steps = 1000, beta: Positive = 0.01, zero_terminal_snr: bool = False, shift: Positive = 1.0
    ):
        check_steps(steps)
        betas = torch.full((steps,), beta, dtype=torch.float64)
        super().__init__(rescale_to_steps(betas, "constant"), zero_terminal_snr, shift)


class ExponentialSchedule(DiscreteVP):
    r"""Geometric betas, :math:`\beta_k = \beta_\min (\beta_\max / \beta_\min)^{(k-1)/(T-1)}`."""

    def __init__(
        self, steps: Steps = 1000, beta_min: Positive = 1e-4, beta_max: Positive = 0.05,
        zero_terminal_snr: bool = False, shift: Positive = 1.0,
    ):  # fmt: skip
        check_steps(steps)
        check_betas(beta_min, beta_max)
        super().__init__(
            rescale_to_steps(geomspace(beta_min, beta_max, steps), "exponential"), zero_terminal_snr, shift
        )


class TanhSchedule(DiscreteVP):
    r"""Betas that increase as :math:`\frac12 (1 + \tanh u)`, with u from -width to width.

    Since :math:`\frac12 (1 + \tanh u) = \operatorname{sigmoid}(2u)`, other libraries call this the "sigmoid" schedule
    of betas. Source: Xu et al. 2022 (GeoDiff), arXiv:2203.02923, code.
    """

    def __init__(
        self, steps: Steps = 1000, beta_min: Positive = 1e-4, beta_max: Positive = 0.02, width: Positive = 3.0,
        zero_terminal_snr: bool = False, shift: Positive = 1.0,
    ):  # fmt: skip
        check_steps(steps)
        rise = (1 + torch.linspace(-width, width, steps, dtype=torch.float64).tanh()) / 2
        super().__init__(rescale_to_steps(beta_min + (beta_max - beta_min) * rise, "tanh"), zero_terminal_snr, shift)


class CosineSchedule(DiscreteVP):
    r"""A squared cosine for :math:`\alpha^2`, which spends more time at medium noise.

    .. math:: \alpha_t^2 = f(t) / f(0), \quad f(t) = \cos^2\left(\frac{t + s}{1 + s} \frac{\pi}{2}\right), \quad
              \beta_k = \min(1 - \alpha_{k/T}^2 / \alpha_{(k-1)/T}^2,\ \beta_\max)

    Args:
        offset: s.

    Source: Nichol, Dhariwal 2021, arXiv:2102.09672, eq. 17.
    """

    def __init__(
        self, steps: Steps = 1000, offset: Annotated[float, Ge(0)] = 0.008, beta_max: Positive = 0.999,
        zero_terminal_snr: bool = False, shift: Positive = 1.0,
    ):  # fmt: skip
        check_steps(steps)
        t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        alpha_bar = torch.cos((t + offset) / (1 + offset) * torch.pi / 2) ** 2
        super().__init__(betas_from_alpha_bar(alpha_bar, beta_max), zero_terminal_snr, shift)


class PolynomialSchedule(DiscreteVP):
    r"""A polynomial for alpha, with steps of bounded ratio.

    .. math:: \alpha_t^2 = (1 - 2 \delta)\, (1 - t^p)^2 + \delta

    where first :math:`\alpha_{k/T}^2 / \alpha_{(k-1)/T}^2` is raised to at least `ratio_min`.

    Args:
        power: p.
        precision: :math:`\delta`, the signal that is left at t = 1.
        ratio_min: bound of the ratios, which the last of them need.

    Source: Hoogeboom et al. 2022, arXiv:2203.17003, appendix B, and its code.
    """

    def __init__(
        self, steps: Steps = 1000, power: Positive = 2.0, precision: Annotated[float, Interval(gt=0, lt=0.5)] = 1e-5,
        ratio_min: Annotated[float, Interval(gt=0, lt=1)] = 1e-3, zero_terminal_snr: bool = False,
        shift: Positive = 1.0,
    ):  # fmt: skip
        check_steps(steps)
        t = torch.arange(steps + 1, dtype=torch.float64) / steps
        kept = (1 - t**power) ** 2
        alpha_2 = (1 - 2 * precision) * (kept[1:] / kept[:-1]).clamp(min=ratio_min).cumprod(0) + precision
        before = torch.cat([alpha_2.new_ones(1), alpha_2[:-1]])
        super().__init__(1 - alpha_2 / before, zero_terminal_snr, shift)


class SigmoidSchedule(DiscreteVP):
    r"""A sigmoid for :math:`\alpha^2`, flat at both ends.

    .. math:: \alpha_t^2 = \frac{f(1) - f(t)}{f(1) - f(0)}, \quad
              f(t) = \operatorname{sigmoid}\left(\frac{a + t (b - a)}{\tau}\right)

    Args:
        start, end: a and b.
        tau: temperature.

    Source: Jabri et al. 2023, arXiv:2212.11972, appendix B (algorithm 6).
    """

    def __init__(
        self, steps: Steps = 1000, start: float = -3.0, end: float = 3.0, tau: Positive = 1.0,
        beta_max: Positive = 0.999, zero_terminal_snr: bool = False, shift: Positive = 1.0,
    ):  # fmt: skip
        check_steps(steps)
        f = torch.sigmoid(torch.linspace(start, end, steps + 1, dtype=torch.float64) / tau)
        super().__init__(betas_from_alpha_bar(f[-1] - f, beta_max), zero_terminal_snr, shift)


def betas_from_alpha_bar(alpha_bar: Tensor, beta_max: float) -> Tensor:
    r"""The betas (T,) of :math:`\bar\alpha_k = \alpha_{k/T}^2`, k = 0 .. T, up to a constant factor."""
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=beta_max)


def rescale_to_steps(betas: Tensor, name: str) -> Tensor:
    """Multiply the T betas of a schedule stated for 1000 steps by 1000 / T."""
    betas = betas * (1000 / len(betas))
    if betas.max() >= 1:
        raise ValueError(
            f"schedule.steps={len(betas)} is too few for a {name} schedule with betas up to "
            f"{betas.max() * len(betas) / 1000:.3g}: the largest would be {betas.max():.3g}. "
            f"Use at least {int(betas.max() * len(betas)) + 1} steps, or schedule=cosine"
        )
    return betas

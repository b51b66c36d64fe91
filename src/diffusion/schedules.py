r"""Noise schedules: the coefficients of :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon` for t in [0, 1].

t = 0 is data, t = 1 is noise. Times are float64 tensors on the CPU: exact at the nodes of discrete schedules, equal for
every device, and without synchronization, since 0-dimensional ones multiply tensors on any device.

Continuous schedules are here, discrete ones in :mod:`src.diffusion.discrete_schedules` and
:mod:`src.diffusion.beta_schedules`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, TypeVar

import torch
from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor, nn

Time = Float[Tensor, "*batch"]
Positive = Annotated[float, Gt(0)]
Number = TypeVar("Number", float, Tensor)


class Schedule(nn.Module, ABC):
    r"""The forward process :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`. A new one implements `alpha_sigma`."""

    @abstractmethod
    def alpha_sigma(self, t: Time) -> tuple[Time, Time]:
        r""":math:`(\alpha_t, \sigma_t)`, float64, shaped as t. The log-SNR must decrease strictly with t."""

    def log_snr(self, t: Time) -> Time:
        r""":math:`\lambda_t = \log(\alpha_t^2 / \sigma_t^2)`; infinite without noise."""
        alpha, sigma = self.alpha_sigma(t)
        return 2 * (alpha.log() - sigma.log())

    def inverse_log_snr(self, log_snr: Time) -> Time:
        """The t in [0, 1] at which the log-SNR has this value, by bisection to float64 precision.

        Schedules with a closed form override it, for speed.
        """
        log_snr = torch.as_tensor(log_snr, dtype=torch.float64)
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        for _ in range(64):
            middle = (low + high) / 2
            too_clean = self.log_snr(middle) > log_snr
            low, high = torch.where(too_clean, middle, low), torch.where(too_clean, high, middle)
        return (low + high) / 2

    def log_snr_rate(self, t: Time) -> Time:
        r""":math:`d\lambda / dt`, negative."""
        return derivative(self.log_snr, t)

    def drift_diffusion(self, t: Time) -> tuple[Time, Time]:
        r"""f and g² of the SDE :math:`dx = f(t)\, x\, dt + g(t)\, dw` that has these marginals.

        .. math:: f = \frac{d \log \alpha_t}{dt}, \quad
                  g^2 = \frac{d\sigma_t^2}{dt} - 2 f \sigma_t^2 = -\sigma_t^2 \frac{d\lambda_t}{dt}

        They are infinite at t = 1 on schedules that end without signal.

        Source: Kingma et al. 2021, arXiv:2107.00630, appendix I; Song et al. 2021, arXiv:2011.13456, eq. 5.
        """
        _, sigma = self.alpha_sigma(t)
        return derivative(lambda u: self.alpha_sigma(u)[0].log(), t), -(sigma**2) * self.log_snr_rate(t)

    def transition(self, s: Time, t: Time) -> tuple[Time, Time]:
        r"""The coefficients of the transition :math:`x_t = \alpha_{t|s} x_s + \sigma_{t|s} z`, s < t.

        .. math:: \alpha_{t|s} = \alpha_t / \alpha_s, \quad
                  \sigma_{t|s}^2 = \sigma_t^2 - \alpha_{t|s}^2 \sigma_s^2 = \sigma_t^2 (1 - e^{\lambda_t - \lambda_s})

        The last form is precise where the two variances nearly cancel.

        Source: Kingma et al. 2021, arXiv:2107.00630, eq. 23 and 24.
        """
        alpha_t, sigma_t = self.alpha_sigma(t)
        alpha_s, _ = self.alpha_sigma(s)
        return alpha_t / alpha_s, sigma_t * (-torch.expm1(self.log_snr(t) - self.log_snr(s))).sqrt()

    def add_noise(self, x_0: Tensor, t: Time, noise: Tensor) -> Tensor:
        r""":math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`, in the precision and on the device of `x_0`."""
        alpha, sigma = (expand_like(v, x_0) for v in self.alpha_sigma(t))
        return alpha * x_0 + sigma * noise


class VPSDE(Schedule):
    r"""The variance-preserving SDE: the limit of the linear schedule for infinitely many steps.

    .. math:: \alpha_t^2 = e^{-I_t}, \quad \sigma_t^2 = 1 - \alpha_t^2, \quad
              I_t = \int_0^t \beta = \beta_\min t + \tfrac12 (\beta_\max - \beta_\min) t^2

    Source: Song et al. 2021, arXiv:2011.13456, eq. 33 in appendix B and C.
    """

    def __init__(self, beta_min: Positive = 0.1, beta_max: Positive = 20.0):
        super().__init__()
        check_betas(beta_min, beta_max)
        self.beta_min, self.beta_max = beta_min, beta_max

    def alpha_sigma(self, t):
        decay = beta_integral(t, self.beta_min, self.beta_max)
        return torch.exp(-decay / 2), (-torch.expm1(-decay)).sqrt()

    def inverse_log_snr(self, log_snr):
        decay = nn.functional.softplus(-torch.as_tensor(log_snr, dtype=torch.float64))
        slope = self.beta_max - self.beta_min
        t = 2 * decay / (self.beta_min + (self.beta_min**2 + 2 * slope * decay).sqrt())
        return t.nan_to_num(1.0).clamp(0, 1)


class SubVPSDE(Schedule):
    r"""The sub-variance-preserving SDE: the signal of the VP-SDE with less noise.

    .. math:: \alpha_t^2 = e^{-I_t}, \quad \sigma_t = 1 - \alpha_t^2

    Source: Song et al. 2021, arXiv:2011.13456, eq. 29 in appendix B.
    """

    def __init__(self, beta_min: Positive = 0.1, beta_max: Positive = 20.0):
        super().__init__()
        check_betas(beta_min, beta_max)
        self.beta_min, self.beta_max = beta_min, beta_max

    def alpha_sigma(self, t):
        decay = beta_integral(t, self.beta_min, self.beta_max)
        return torch.exp(-decay / 2), -torch.expm1(-decay)


class FlowSchedule(Schedule):
    r"""The straight paths of rectified flow and flow matching.

    .. math:: \alpha_t = 1 - t', \quad \sigma_t = t', \quad t' = \frac{s t}{1 + (s - 1) t}

    Args:
        shift: s, which multiplies :math:`\sigma / \alpha`; 1 for none, more for larger images (:math:`\sqrt{m / n}` of
            their numbers of pixels).

    Source: Liu et al. 2023, arXiv:2209.03003; Lipman et al. 2023, arXiv:2210.02747; shift: Esser et al. 2024,
    arXiv:2403.03206, eq. 23.
    """

    def __init__(self, shift: Positive = 1.0):
        super().__init__()
        self.shift = check_shift(shift)

    def alpha_sigma(self, t):
        denominator = 1 + (self.shift - 1) * t
        return (1 - t) / denominator, self.shift * t / denominator

    def inverse_log_snr(self, log_snr):
        # sigma / (sigma + alpha) undoes the paths, and dividing by the shift first undoes that.
        half = torch.as_tensor(log_snr, dtype=torch.float64) / 2
        return torch.sigmoid(-half - torch.tensor(self.shift, dtype=torch.float64).log())


class LinearVPSchedule(Schedule):
    r"""A signal that decreases linearly, at constant variance: :math:`\alpha_t = 1 - t, \sigma_t^2 = 1 - \alpha_t^2`.

    It ends without any signal. The process of linear betas, elsewhere also called linear, is :class:`VPSDE`.

    Source: `LinearVPScheduler` of Lipman et al. 2024, arXiv:2412.06264, code.
    """

    def alpha_sigma(self, t):
        return 1 - t, (t * (2 - t)).sqrt()

    def inverse_log_snr(self, log_snr):
        # 1 - alpha without a difference of close numbers.
        log_snr = torch.as_tensor(log_snr, dtype=torch.float64)
        return torch.sigmoid(-log_snr) / (1 + torch.sigmoid(log_snr).sqrt())


class LaplaceSchedule(Schedule):
    r"""A log-SNR with a Laplace distribution for uniform t, concentrated around its mean.

    .. math:: \lambda_t = \mu - b\, \operatorname{sgn}(\tfrac12 - t) \log(1 - 2 |t - \tfrac12|) - 2 \log s,
              \quad \alpha_t^2 = \operatorname{sigmoid}(\lambda_t), \quad \sigma_t^2 = 1 - \alpha_t^2

    It ends without any signal.

    Args:
        mean: :math:`\mu`.
        scale: b.
        shift: s, which multiplies :math:`\sigma / \alpha`.

    Source: Hang et al. 2024, arXiv:2407.03297, table 1.
    """

    def __init__(self, mean: float = 0.0, scale: Positive = 0.5, shift: Positive = 1.0):
        super().__init__()
        if scale <= 0:
            raise ValueError(f"schedule.scale must be > 0, got {scale}")
        self.mean, self.scale, self.shift = mean, scale, check_shift(shift)

    def alpha_sigma(self, t):
        return variance_preserving(self.log_snr(t))

    def log_snr(self, t):
        t = torch.as_tensor(t, dtype=torch.float64)
        tail = torch.where(t < 0.5, 2 * t, 2 - 2 * t).log()  # exact at both ends
        middle = self.mean - 2 * torch.tensor(self.shift, dtype=torch.float64).log()
        return middle - self.scale * torch.where(t < 0.5, tail, -tail)

    def inverse_log_snr(self, log_snr):
        middle = self.log_snr(torch.tensor(0.5, dtype=torch.float64))
        z = (torch.as_tensor(log_snr, dtype=torch.float64) - middle) / self.scale
        half = torch.exp(-z.abs()) / 2
        return torch.where(z > 0, half, 1 - half)


def posterior_weights(
    alpha_s: Number, sigma_s: Number, sigma_t: Number, alpha_ts: Number, sigma_ts: Number
) -> tuple[Number, Number]:
    r"""a and b of the mean :math:`a\, x_t + b\, x_0` of :math:`q(x_s | x_t, x_0)`.

    .. math:: a = \alpha_{t|s} \sigma_s^2 / \sigma_t^2, \quad b = \alpha_s \sigma_{t|s}^2 / \sigma_t^2

    Source: Ho et al. 2020, arXiv:2006.11239, eq. 7.
    """
    return alpha_ts * (sigma_s / sigma_t) ** 2, alpha_s * (sigma_ts / sigma_t) ** 2


def variance_preserving(log_snr: Time) -> tuple[Time, Time]:
    r""":math:`(\alpha, \sigma)` of a log-SNR where :math:`\alpha^2 + \sigma^2 = 1`."""
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


def beta_integral(t: Time, beta_min: float, beta_max: float) -> Time:
    """The integral of the linear beta(t) from 0 to t."""
    return beta_min * t + (beta_max - beta_min) * t**2 / 2


def derivative(f: Callable[[Time], Time], t: Time) -> Time:
    """df/dt, element by element."""
    with torch.inference_mode(False), torch.enable_grad():
        t = torch.as_tensor(t, dtype=torch.float64).detach().clone().requires_grad_()
        # Adding 0 t gives functions that do not depend on t the derivative 0.
        return torch.autograd.grad((f(t) + 0 * t).sum(), t)[0]


def expand_like(value: Tensor, x: Tensor) -> Tensor:
    """Reshape coefficients (B,) to (B, 1, ...) with the dtype and device of x; return 0-dimensional ones unchanged."""
    if value.ndim == 0:
        return value
    return value.to(x.device, x.dtype, non_blocking=True).view(-1, *[1] * (x.ndim - 1))


def check_shift(shift: float) -> float:
    """Raise ValueError unless the shift is finite and > 0."""
    if not 0 < shift < float("inf"):
        raise ValueError(f"schedule.shift must be finite and > 0, got {shift}; use 1 for no shift")
    return shift


def check_betas(beta_min: float, beta_max: float) -> None:
    """Raise ValueError unless 0 < beta_min <= beta_max."""
    if not 0 < beta_min <= beta_max:
        raise ValueError(f"schedule must have 0 < beta_min <= beta_max, got {beta_min} and {beta_max}")

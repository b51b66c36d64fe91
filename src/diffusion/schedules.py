r"""Schedules: how much of the data and how much noise a noisy sample holds at each time.

Everything in this project is :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon` with t in [0, 1], 0 = data, 1 = noise.
Times are float64 tensors on the CPU: exact at the nodes of a table, the same on every device, and free of
synchronisation, since 0-dimensional ones multiply a tensor on any device as plain numbers.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

Time = Float[Tensor, "*batch"]


class Schedule(nn.Module, ABC):
    r"""The forward process :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`. A new one is one method, `alpha_sigma`."""

    @abstractmethod
    def alpha_sigma(self, t: Time) -> tuple[Time, Time]:
        r""":math:`(\alpha_t, \sigma_t)`, float64, shaped as t. The log-SNR falls strictly with t."""

    def log_snr(self, t: Time) -> Time:
        r""":math:`\lambda_t = \log(\alpha_t^2 / \sigma_t^2)`; infinite where there is no noise."""
        alpha, sigma = self.alpha_sigma(t)
        return 2 * (alpha.log() - sigma.log())

    def inverse_log_snr(self, log_snr: Time) -> Time:
        """The t in [0, 1] at which the log-SNR has this value, by bisection to float64 precision."""
        log_snr = torch.as_tensor(log_snr, dtype=torch.float64)
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        for _ in range(64):
            middle = (low + high) / 2
            too_clean = self.log_snr(middle) > log_snr
            low, high = torch.where(too_clean, middle, low), torch.where(too_clean, high, middle)
        return (low + high) / 2

    def transition(self, s: Time, t: Time) -> tuple[Time, Time]:
        r"""The law of :math:`x_t = \alpha_{t|s} x_s + \sigma_{t|s} z` for s < t.

        .. math:: \alpha_{t|s} = \alpha_t / \alpha_s, \quad
                  \sigma_{t|s}^2 = \sigma_t^2 - \alpha_{t|s}^2 \sigma_s^2 = \sigma_t^2 (1 - e^{\lambda_t - \lambda_s})

        The last form keeps its precision where the two variances nearly cancel.

        Source: Kingma et al. 2021, arXiv:2107.00630, eq. 23 and 24.
        """
        alpha_t, sigma_t = self.alpha_sigma(t)
        alpha_s, _ = self.alpha_sigma(s)
        return alpha_t / alpha_s, sigma_t * (-torch.expm1(self.log_snr(t) - self.log_snr(s))).sqrt()

    def add_noise(self, x_0: Tensor, t: Time, noise: Tensor) -> Tensor:
        r""":math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`, in the precision and on the device of `x_0`."""
        alpha, sigma = (match(v, x_0) for v in self.alpha_sigma(t))
        return alpha * x_0 + sigma * noise


class Table(Schedule):
    r"""A discrete variance-preserving process: T variances :math:`\beta_k`, exact at the nodes t = k / T.

    .. math:: \alpha_{k/T}^2 = \prod_{i \le k} (1 - \beta_i), \quad \sigma^2 = 1 - \alpha^2

    Between the nodes the log-SNR is interpolated linearly; between t = 0, where it is infinite, and the first node
    the variance is.

    Args:
        betas: (T,) variances in (0, 1); :math:`\beta_1` comes first.

    Source: Ho et al. 2020, arXiv:2006.11239, eq. 2 and 4.
    """

    def __init__(self, betas: Float[Tensor, " steps"]):
        super().__init__()
        betas = torch.as_tensor(betas, dtype=torch.float64)
        outside = (~((betas > 0) & (betas < 1))).nonzero()
        if len(outside):
            k = int(outside[0])
            raise ValueError(f"each beta lies between 0 and 1, but beta_{k + 1} = {betas[k]:.4g}")
        # Plain attributes, not buffers: moving the module to a device or to half precision must not touch them.
        self.betas = betas
        self.steps = len(betas)
        log_alpha_2 = torch.log1p(-betas).cumsum(0)
        self._log_snr = log_alpha_2 - torch.log(-torch.expm1(log_alpha_2))

    def alpha_sigma(self, t: Time) -> tuple[Time, Time]:
        log_snr = self.log_snr(t)
        return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()

    def log_snr(self, t: Time) -> Time:
        k = torch.as_tensor(t, dtype=torch.float64, device="cpu") * self.steps
        # Times such as 0.29 * 1000 miss their node by a rounding error, which must not show as interpolation.
        k = torch.where((k - k.round()).abs() < 1e-9 * self.steps, k.round(), k)
        below = k.floor().clamp(1, max(self.steps - 1, 1)).long() - 1
        above = (below + 1).clamp(max=self.steps - 1)
        inside = torch.lerp(self._log_snr[below], self._log_snr[above], k - 1 - below)
        variance = k * torch.sigmoid(-self._log_snr[0])
        return torch.where(k < 1, torch.log1p(-variance) - variance.log(), inside)


def linear(steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> Table:
    r"""Variances that grow linearly from `beta_min` to `beta_max`.

    The two are stated for T = 1000 and scaled by 1000 / T otherwise, so that the amount of noise at the end stays.

    Source: Ho et al. 2020, arXiv:2006.11239, section 4.
    """
    check_steps(steps)
    betas = torch.linspace(beta_min, beta_max, steps, dtype=torch.float64) * (1000 / steps)
    if betas.max() >= 1:
        raise ValueError(
            f"schedule.steps={steps} is too few for a linear schedule up to beta_max={beta_max}: the last beta would "
            f"be {betas.max():.3g}. Use at least {int(1000 * beta_max) + 1} steps, or schedule=cosine"
        )
    return Table(betas)


def cosine(steps: int = 1000, offset: float = 0.008, beta_max: float = 0.999) -> Table:
    r"""A squared cosine for :math:`\alpha^2`, which spends more time at middle noise.

    .. math:: \alpha_t^2 = f(t) / f(0), \quad f(t) = \cos^2\left(\frac{t + s}{1 + s} \frac{\pi}{2}\right), \quad
              \beta_k = \min(1 - \alpha_{k/T}^2 / \alpha_{(k-1)/T}^2,\ \beta_\max)

    Source: Nichol, Dhariwal 2021, arXiv:2102.09672, eq. 17.
    """
    check_steps(steps)
    nodes = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    f = torch.cos((nodes + offset) / (1 + offset) * torch.pi / 2) ** 2
    return Table((1 - f[1:] / f[:-1]).clamp(max=beta_max))


def check_steps(steps: int) -> None:
    """Refuse a table without entries."""
    if steps < 1:
        raise ValueError(f"schedule.steps is at least 1, not {steps}")


def match(value: Tensor, x: Tensor) -> Tensor:
    """Make times or coefficients multiply x: 0-dimensional ones pass, (B,) become (B, 1, ...) like x."""
    if value.ndim == 0:
        return value
    return value.to(x.device, x.dtype, non_blocking=True).view(-1, *[1] * (x.ndim - 1))

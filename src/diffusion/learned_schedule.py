"""A schedule that is trained with the network."""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from src.diffusion.schedules import Schedule, Time, variance_preserving


class LearnedSchedule(Schedule):
    r"""Variance-preserving process with a monotone network for the log-SNR, trained to reduce the variance of the
    bound.

    .. math:: \lambda_t = \lambda_\max - (\lambda_\max - \lambda_\min)
              \frac{\gamma(t) - \gamma(0)}{\gamma(1) - \gamma(0)}, \quad
              \gamma(t) = w_1 t + w_3^\top \operatorname{sigmoid}(w_2 t + b), \quad w_i > 0

    The continuous bound depends only on the two ends of the schedule, but the variance of its estimate depends on all
    of it, and the weights minimize that variance: the gradient of each sample's loss times twice that loss is the
    gradient of the squared loss. `loss=vlb` with `loss.steps=null` calls `set_losses` for it.

    Args:
        log_snr_max: log-SNR at t = 0, where noise of about :math:`\sigma_0 = e^{-\lambda_\max / 2}` remains.
        log_snr_min: log-SNR at t = 1.
        hidden: number of sigmoids.

    Source: Kingma et al. 2021, arXiv:2107.00630, section 5.1 and appendices H and I.
    """

    def __init__(self, log_snr_max: float = 13.3, log_snr_min: float = -5.0, hidden: Annotated[int, Ge(1)] = 64):
        super().__init__()
        if not log_snr_max > log_snr_min:
            raise ValueError(
                f"schedule.log_snr_max must be > schedule.log_snr_min, got {log_snr_max} and {log_snr_min}"
            )
        self.log_snr_max, self.log_snr_min = log_snr_max, log_snr_min
        # A line and small, evenly spaced sigmoids; softplus keeps the weights positive.
        self.slope = nn.Parameter(torch.zeros(()))
        self.heights = nn.Parameter(torch.full((hidden,), -5.0))
        self.steepness = nn.Parameter(torch.full((hidden,), 10.0))
        self.centers = nn.Parameter(torch.linspace(0, 1, hidden))
        # Filled by `set_losses`, and read by the gradient hooks of the values computed since its last call.
        self.grad_scale: dict[str, Tensor] = {}

    def alpha_sigma(self, t):
        return variance_preserving(self.log_snr(t))

    def log_snr(self, t):
        t = torch.as_tensor(t, dtype=torch.float64)
        start, end = self._gamma(torch.tensor([0.0, 1.0], dtype=torch.float64))
        share = (self._gamma(t) - start) / (end - start)
        return self._hook_gradient(self.log_snr_max + (self.log_snr_min - self.log_snr_max) * share)

    def log_snr_rate(self, t):
        slope, heights, steepness, centers = self._weights()
        s = torch.sigmoid(steepness * (t[..., None] - centers))
        rate = slope + (heights * steepness * s * (1 - s)).sum(-1)
        start, end = self._gamma(torch.tensor([0.0, 1.0], dtype=torch.float64))
        return self._hook_gradient((self.log_snr_min - self.log_snr_max) * rate / (end - start))

    def set_losses(self, losses: Tensor) -> None:
        """Minimize the variance of these losses, (B,), at the times evaluated since the last call."""
        self.grad_scale["scale"] = 2 * losses.detach().cpu()
        self.grad_scale = {}

    def _weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Slope, heights, steepness and centers, the first three positive, in float64 on the CPU."""
        slope, heights, steepness = (F.softplus(p.cpu().double()) for p in (self.slope, self.heights, self.steepness))
        return slope, heights, steepness, self.centers.cpu().double()

    def _gamma(self, t: Time) -> Time:
        slope, heights, steepness, centers = self._weights()
        return slope * t + (heights * torch.sigmoid(steepness * (t[..., None] - centers))).sum(-1)

    def _hook_gradient(self, value: Time) -> Time:
        """Multiply the gradient of this value by twice the loss of its sample, if `set_losses` gives it."""
        grad_scale = self.grad_scale
        if value.requires_grad:
            value.register_hook(lambda g: g * grad_scale["scale"] if g.ndim and "scale" in grad_scale else g)
        return value

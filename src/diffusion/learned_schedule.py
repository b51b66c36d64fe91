"""A schedule that is learned with the network."""

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

    The continuous bound does not depend on what lies between the two ends, but the variance of its estimate does, and
    that is what the weights here are trained on: the gradient of each sample's loss, scaled by twice that loss, is the
    gradient of its square. `loss=vlb` with `loss.steps=null` does so by calling `set_losses`.

    Args:
        log_snr_max: at t = 0, where a noise of :math:`\sigma_0 = e^{-\lambda_\max / 2}` remains.
        log_snr_min: at t = 1.
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
        # Evenly spread gentle sigmoids on a straight line; softplus of these keeps the weights positive.
        self.slope = nn.Parameter(torch.zeros(()))
        self.heights = nn.Parameter(torch.full((hidden,), -5.0))
        self.steepness = nn.Parameter(torch.full((hidden,), 10.0))
        self.centres = nn.Parameter(torch.linspace(0, 1, hidden))
        # What `set_losses` will tell the gradients of the values asked for since its last call.
        self.grad_scale: dict[str, Tensor] = {}

    def alpha_sigma(self, t):
        return variance_preserving(self.log_snr(t))

    def log_snr(self, t):
        t = torch.as_tensor(t, dtype=torch.float64)
        start, end = self._gamma(torch.tensor([0.0, 1.0], dtype=torch.float64))
        share = (self._gamma(t) - start) / (end - start)
        return self._hook_gradient(self.log_snr_max + (self.log_snr_min - self.log_snr_max) * share)

    def log_snr_rate(self, t):
        t = torch.as_tensor(t, dtype=torch.float64)
        slope, heights, steepness, centres = self._weights()
        s = torch.sigmoid(steepness * (t[..., None] - centres))
        rate = slope + (heights * steepness * s * (1 - s)).sum(-1)
        start, end = self._gamma(torch.tensor([0.0, 1.0], dtype=torch.float64))
        return self._hook_gradient((self.log_snr_min - self.log_snr_max) * rate / (end - start))

    def set_losses(self, losses: Tensor) -> None:
        """Train on the variance of these losses, (B,): at the times asked for since the last call."""
        self.grad_scale["scale"] = 2 * losses.detach().double().cpu()
        self.grad_scale = {}

    def _weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Slope, heights, steepness and centres, the first three above 0: float64 on the CPU, wherever they live."""
        slope, heights, steepness = (F.softplus(p.cpu().double()) for p in (self.slope, self.heights, self.steepness))
        return slope, heights, steepness, self.centres.cpu().double()

    def _gamma(self, t: Time) -> Time:
        slope, heights, steepness, centres = self._weights()
        return slope * t + (heights * torch.sigmoid(steepness * (t[..., None] - centres))).sum(-1)

    def _hook_gradient(self, value: Time) -> Time:
        """Scale the gradient that reaches this value by twice the loss of its sample, once that is known."""
        grad_scale = self.grad_scale
        if value.requires_grad:
            value.register_hook(lambda g: g * grad_scale["scale"] if g.ndim and "scale" in grad_scale else g)
        return value

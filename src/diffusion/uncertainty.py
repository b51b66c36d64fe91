"""A loss with a weight for each noise level that is learned."""

import math
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from src.diffusion.losses import MSE, Loss, Weighting
from src.diffusion.schedules import Time


class Uncertainty(nn.Module, Loss):
    r"""Squared error divided by its expected size at each noise level, which is learned with the network.

    .. math:: \frac{w}{e^{u(\lambda)}} \overline{(\hat x_0 - x_0)^2} + u(\lambda)

    It is least where :math:`e^u` is the mean weighted error at this log-SNR :math:`\lambda`, so that all noise levels
    contribute equally to the gradient of the network, whatever the weighting. u is linear in random Fourier features
    of :math:`\tfrac14 \log(\sigma / \alpha)` and starts at 0.

    Args:
        weighting: maps (schedule, t) to w.
        width: number of features.

    Source: Karras et al. 2024, arXiv:2312.02696, eq. 21 and appendix B.2.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, weighting: Weighting, width: Annotated[int, Ge(1)] = 128):
        super().__init__()
        self.squared_error = MSE(weighting)
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(width))
        self.register_buffer("phases", 2 * math.pi * torch.rand(width))
        self.weight = nn.Parameter(torch.zeros(width))

    def check(self, denoiser):
        super().check(denoiser)
        self.squared_error.check(denoiser)

    def log_error(self, log_snr: Time) -> Float[Tensor, " batch"]:
        r"""u at these :math:`\lambda` (B,), float32 on the device of the parameters."""
        c_noise = (-log_snr / 8).clamp(-10, 10).to(self.frequencies.device, torch.float32)
        features = math.sqrt(2) * torch.cos(c_noise[:, None] * self.frequencies + self.phases)
        return (features * self.weight).sum(1)  # a matrix product would be in bf16 under autocast

    def forward(self, denoiser, x_0, t, noise, cond=None):
        u = self.log_error(denoiser.schedule.log_snr(t).detach())
        return self.squared_error(denoiser, x_0, t, noise, cond) / u.exp() + u

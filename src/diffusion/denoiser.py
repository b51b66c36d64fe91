"""The denoiser: a network, a schedule and a parameterization, as one function from noisy to clean."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from src.diffusion.parameterizations import Parameterization
from src.diffusion.schedules import Schedule, Time, match


class Prediction(NamedTuple):
    """What a denoiser says of x_t.

    x_0: the expected data, shaped and typed as x_t.
    output: F, what the network itself gave.
    """

    x_0: Tensor
    output: Tensor


class Denoiser(nn.Module):
    r"""Predicts the data from a noisy sample.

    .. math:: \hat x_0 = c_\text{skip}\, x_t + c_\text{out}\, F(c_\text{in}\, x_t,\ c_\text{noise})

    Args:
        net: ``net(x, c_noise, cond)``, with the shape of x.
        schedule: the forward process; the denoiser owns it.
        parameterization: the four coefficients.

    Shapes: x_t (B, C, *S); t () or (B,), float64; cond None or labels (B,).

    Raises:
        ValueError: where the parameterization is singular on this schedule.
    """

    schedule: Schedule

    def __init__(self, net: nn.Module, schedule: Schedule, parameterization: Parameterization):
        super().__init__()
        parameterization.check(schedule)
        self.net = net
        self.schedule = schedule
        self.parameterization = parameterization

    def forward(
        self, x_t: Float[Tensor, "batch *data"], t: Time, cond: Int[Tensor, " batch"] | None = None
    ) -> Prediction:
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        c_in, c_skip, c_out, c_noise = self.parameterization.scalings(t, *self.schedule.alpha_sigma(t))
        c_noise = c_noise.to(x_t.device, torch.float32, non_blocking=True).expand(len(x_t))
        # Autocast may hand back bf16; x_0 is a difference of close numbers and is taken in the precision of x_t.
        output = self.net(match(c_in, x_t) * x_t, c_noise, cond).to(x_t.dtype)
        return Prediction(match(c_skip, x_t) * x_t + match(c_out, x_t) * output, output)

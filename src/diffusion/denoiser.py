"""The denoiser: a network, a schedule and a parameterization as one function of (x_t, t)."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from src.diffusion.conditions import Cond, Condition, NoCondition
from src.diffusion.parameterizations import Parameterization
from src.diffusion.schedules import Schedule, Time, expand_like
from src.diffusion.variances import FixedSmallVariance, Variance


class Prediction(NamedTuple):
    """The output of a denoiser.

    Attributes:
        x_0: the predicted mean of the data given x_t, with the shape and dtype of x_t.
        variance: the second output of the network, shaped as x_t, for a learned `Variance`; None for a fixed one.
    """

    x_0: Tensor
    variance: Tensor | None = None


class Denoiser(nn.Module):
    r"""Predict the data from a noisy sample.

    .. math:: \hat x_0 = c_\text{skip}\, x_t + c_\text{out}\, F(c_\text{in}\, x_t,\ c_\text{noise})

    Args:
        net: ``net(x, c_noise, cond)``, with output of the shape of x. With a learned variance the output has twice the
            channels, with self-conditioning the input.
        schedule: the forward process.
        parameterization: the four coefficients.
        variance: variance of the reverse steps.
        self_conditioning_prob: probability of a training step in which the network gets its own first estimate of the
            data beside x_t, instead of zeros; 0 is without self-conditioning. In sampling it gets the estimate of the
            previous step. (Chen et al. 2023, arXiv:2208.04202, section 3.2, where it is 0.5.)
        condition: takes the condition from a batch of data, and draws it for new samples; none by default.

    Shapes: x_t (B, C, *S); t () or (B,), float64; cond (B, ...), as `condition` gives it, or None for its null value
    (of several conditions a dict, with the null value for those that it lacks); estimate as x_t.

    Raises:
        ValueError: if the parameterization is singular on this schedule.
    """

    schedule: Schedule
    channels_last = False

    def __init__(
        self,
        net: nn.Module,
        schedule: Schedule,
        parameterization: Parameterization,
        variance: Variance | None = None,
        self_conditioning_prob: float = 0.0,
        condition: Condition | None = None,
    ):
        super().__init__()
        parameterization.check(schedule)
        if not 0 <= self_conditioning_prob < 1:
            raise ValueError(
                f"self_conditioning_prob must be in [0, 1), got {self_conditioning_prob}; the other steps teach the "
                "net to make the first estimate"
            )
        self.net = net
        self.schedule = schedule
        self.parameterization = parameterization
        self.variance = variance or FixedSmallVariance()
        self.self_conditioning_prob = self_conditioning_prob
        self.condition = condition or NoCondition()

    def forward(
        self,
        x_t: Float[Tensor, "batch *data"],
        t: Time,
        cond: Cond | None = None,
        estimate: Float[Tensor, "batch *data"] | None = None,
    ) -> Prediction:
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        cond = self.condition.complete(cond, x_t.shape[0], x_t.device)
        c_in, c_skip, c_out, c_noise = self.parameterization.preconditioning(self.schedule, t)
        c_noise = c_noise.to(x_t.device, torch.float32, non_blocking=True).expand(x_t.shape[0])
        x_in = expand_like(c_in, x_t) * x_t
        if self.self_conditioning_prob:
            if estimate is None:
                estimate = self._first_estimate(x_t, t, cond)
            x_in = torch.cat([x_in, estimate], 1)
        output = self.evaluate(x_in, c_noise, None if cond is None else self.condition.prepare(cond))
        # Autocast may hand back bf16; x_0 is a difference of close numbers and is taken in the precision of x_t.
        output, *more = output.to(x_t.dtype).chunk(self.variance.outputs, 1)
        return Prediction(expand_like(c_skip, x_t) * x_t + expand_like(c_out, x_t) * output, *more)

    def use_channels_last(self) -> None:
        """Keep the weights of the network, and its input, with the channels last in memory; (H, W) data only."""
        self.channels_last = True
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def evaluate(self, x_in: Tensor, c_noise: Tensor, cond: Cond | None) -> Tensor:
        """The output of the network for prepared conditions, contiguous whatever its layout of memory."""
        if not self.channels_last or x_in.ndim != 4:
            return self.net(x_in, c_noise, cond)
        return self.net(x_in.contiguous(memory_format=torch.channels_last), c_noise, cond).contiguous()

    def _first_estimate(self, x_t: Tensor, t: Time, cond: Cond | None) -> Tensor:
        """The network's estimate from zeros; in training only in some of the steps, zeros in the others."""
        nothing = torch.zeros_like(x_t)
        if self.training and torch.rand(()) >= self.self_conditioning_prob:
            return nothing
        with torch.no_grad():
            return self(x_t, t, cond, nothing).x_0

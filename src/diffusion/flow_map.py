r"""The flow map of the probability-flow ODE: a denoiser given also the time to which it takes the sample.

With :math:`\kappa = \alpha / \sigma` the ODE of every schedule is :math:`d(x / \sigma) = E[x_0 | x_t]\, d\kappa`, so
its solution from t to s < t is a DDIM step with the mean of :math:`E[x_0 | x_\tau]` on the way, over :math:`\kappa`:

.. math:: X(x_t, t, s) = \frac{\sigma_s}{\sigma_t} x_t
          + \left(\alpha_s - \frac{\sigma_s}{\sigma_t} \alpha_t\right) \bar x_0(x_t, t, s), \quad
          \bar x_0(x_t, t, s) = \frac{1}{\kappa_s - \kappa_t} \int_{\kappa_t}^{\kappa_s} E[x_0 | x_\tau]\, d\kappa_\tau

At s = t the mean is the denoiser itself, and at s = 0, where :math:`\kappa` is infinite, the end of the trajectory, a
consistency model. On `schedule=flow` the mean of the velocity, :math:`(x_t - \bar x_0) / t`, is that of MeanFlow.

Source: Boffi, Albergo, Vanden-Eijnden 2024, arXiv:2406.07507; Kim et al. 2023, arXiv:2310.02279, eq. 8 (this form, with
:math:`\alpha = 1`); Geng et al. 2025, arXiv:2505.13447, eq. 3.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from src.diffusion.conditions import Cond
from src.diffusion.denoiser import Denoiser, Prediction
from src.diffusion.forward_mode import FixedWeights
from src.diffusion.schedules import Schedule, Time, derivative, expand_like
from src.diffusion.weightings import clamp_from_ends


class FlowMap(Denoiser):
    r"""Predict the mean data on the way from (x_t, t) to s < t; without s, or with s = t, as the `Denoiser` does.

    .. math:: \bar x_0 = c_\text{skip}\, x_t + c_\text{out}\, F(c_\text{in}\, x_t,\ (c_\text{noise}(t),
              c_\text{noise}(s)))

    All samplers, tasks, guidance and metrics that take a denoiser take it too.

    Args:
        net: ``net(x, c_noise, cond)`` with c_noise (B, 2), the noise levels of t and of s.
        schedule, parameterization, variance, self_conditioning_prob, condition: see `Denoiser`; no
            loss of a flow map trains a variance, and self-conditioning is not supported.

    Raises:
        ValueError: for self-conditioning.
    """

    def __init__(self, net, schedule, parameterization, variance=None, self_conditioning_prob=0.0, condition=None):
        super().__init__(net, schedule, parameterization, variance, self_conditioning_prob, condition)
        if self_conditioning_prob:
            raise ValueError(f"self_conditioning_prob must be 0 for a flow map, got {self_conditioning_prob}")

    def forward(
        self,
        x_t: Float[Tensor, "batch *data"],
        t: Time,
        cond: Cond | None = None,
        estimate: Float[Tensor, "batch *data"] | None = None,
        s: Time | None = None,
    ) -> Prediction:
        t = as_time(t)
        c_in, c_skip, c_out, c_noise = self.parameterization.preconditioning(self.schedule, t)
        levels = self.both_levels(c_noise, t if s is None else as_time(s), x_t)
        output = self.evaluate(expand_like(c_in, x_t) * x_t, levels, self.prepared(cond, x_t))
        output, *more = output.to(x_t.dtype).chunk(self.variance.outputs, 1)
        return Prediction(expand_like(c_skip, x_t) * x_t + expand_like(c_out, x_t) * output, *more)

    def map(self, x_t: Tensor, t: Time, s: Time, cond: Cond | None = None) -> Tensor:
        """X(x_t, t, s): the sample taken from t to s by one evaluation; exactly x_t for s = t."""
        t, s = as_time(t), as_time(s)
        return ddim_map(self.schedule, x_t, self(x_t, t, cond, s=s).x_0, t, s)

    def with_rate(
        self, x_t: Tensor, t: Time, s: Time, cond: Cond | None = None, x_rate: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""The prediction and its derivative, in forward mode.

        Args:
            x_t, t, s, cond: as in `forward`.
            x_rate: dx/dt, for the total derivative by t with s held; without it the derivative by s, with x and t held.

        Returns:
            :math:`\bar x_0` and its derivative, each shaped as x_t.

        Raises:
            ValueError: if an operation of the net has no derivative in forward mode.
        """
        t, s = as_time(t), as_time(s)
        c_in, c_skip, c_out, c_noise = self.parameterization.preconditioning(self.schedule, t)
        x_in, levels = expand_like(c_in, x_t) * x_t, self.both_levels(c_noise, s, x_t)
        if x_rate is None:
            in_rate, level_rate = None, (torch.zeros_like(t), self.coefficient_rate(3, s))
        else:
            in_rate = expand_like(self.coefficient_rate(0, t), x_t) * x_t + expand_like(c_in, x_t) * x_rate
            level_rate = (self.coefficient_rate(3, t), torch.zeros_like(t))
        rates = torch.stack(level_rate, -1).to(levels.device, levels.dtype, non_blocking=True).expand(levels.shape)
        output, out_rate = self.evaluate_with_rate(x_in, in_rate, levels, rates, self.prepared(cond, x_t))
        x_0 = expand_like(c_skip, x_t) * x_t + expand_like(c_out, x_t) * output
        rate = expand_like(c_out, x_t) * out_rate
        if x_rate is not None:
            skip_rate, scale_rate = (expand_like(self.coefficient_rate(i, t), x_t) for i in (1, 2))
            rate = rate + skip_rate * x_t + expand_like(c_skip, x_t) * x_rate + scale_rate * output
        return x_0, rate

    def evaluate_with_rate(
        self, x_in: Tensor, in_rate: Tensor | None, levels: Tensor, level_rate: Tensor, cond: Cond | None
    ) -> tuple[Tensor, Tensor]:
        """The output of the network and its directional derivative, in full precision.

        Autocast and forward mode do not go together in torch, and differences of derivatives need the precision.
        """
        whole = torch.autocast(x_in.device.type, enabled=False)
        with whole, forward_ad.dual_level(), FixedWeights(), torch.compiler.set_stance("force_eager"):
            x = x_in if in_rate is None else forward_ad.make_dual(x_in, in_rate)
            try:
                output = self.evaluate(x, forward_ad.make_dual(levels, level_rate), cond).to(x_in.dtype)
            except NotImplementedError as error:
                reason = " ".join(str(error).split())
                raise ValueError(
                    f"net: {type(self.net).__name__} has no derivative in forward mode ({reason}); use a loss "
                    "without one, such as loss=progressive or loss=consistency_training"
                ) from error
            value, rate = forward_ad.unpack_dual(output)
        return value, torch.zeros_like(value) if rate is None else rate

    def prepared(self, cond: Cond | None, x_t: Tensor) -> Cond | None:
        """The condition as the network takes it."""
        cond = self.condition.complete(cond, x_t.shape[0], x_t.device)
        return None if cond is None else self.condition.prepare(cond)

    def both_levels(self, c_noise: Time, s: Time, x_t: Tensor) -> Float[Tensor, "batch 2"]:
        """The noise levels of t and s as the network takes them."""
        levels = torch.stack(
            torch.broadcast_tensors(c_noise, self.parameterization.preconditioning(self.schedule, s)[3]), -1
        )
        dtype = torch.promote_types(torch.float32, x_t.dtype)
        return levels.to(x_t.device, dtype, non_blocking=True).expand(x_t.shape[0], 2)

    def coefficient_rate(self, index: int, t: Time) -> Time:
        """The derivative by t of one of the four coefficients of the parameterization."""
        return derivative(lambda u: self.parameterization.preconditioning(self.schedule, u)[index], clamp_from_ends(t))


class Coefficients(NamedTuple):
    r"""What the flow map from t to s, and the ODE at t, need of a schedule; float64, each shaped as t.

    Attributes:
        ratio: :math:`\sigma_s / \sigma_t`.
        weight: :math:`\alpha_s - \alpha_t \sigma_s / \sigma_t`, of the mean data in X.
        log_sigma_rate: :math:`d \log \sigma / dt`.
        speed: :math:`-\sigma_t\, d\kappa/dt = \alpha_t\, d \log \sigma / dt - d\alpha/dt`, of the data in
            :math:`\dot x = \frac{d \log \sigma}{dt} x_t - \text{speed} \cdot \hat x_0`.
    """

    ratio: Time
    weight: Time
    log_sigma_rate: Time
    speed: Time


def coefficients(schedule: Schedule, t: Time, s: Time) -> Coefficients:
    """The coefficients of the flow map from t to s, and those of the ODE at t."""
    return Coefficients(*map_coefficients(schedule, t, s), *ode_coefficients(schedule, t))


def ode_coefficients(schedule: Schedule, t: Time) -> tuple[Time, Time]:
    r"""`log_sigma_rate` and `speed` of :class:`Coefficients`."""
    t = clamp_from_ends(t)
    alpha, sigma = schedule.alpha_sigma(t)
    alpha_rate = derivative(lambda u: schedule.alpha_sigma(u)[0], t)
    sigma_rate = derivative(lambda u: schedule.alpha_sigma(u)[1], t)
    return sigma_rate / sigma, alpha * sigma_rate / sigma - alpha_rate


def map_coefficients(schedule: Schedule, t: Time, s: Time) -> tuple[Time, Time]:
    r""":math:`\sigma_s / \sigma_t` and :math:`\alpha_s - \alpha_t \sigma_s / \sigma_t`; 1 and 0 for s = t."""
    alpha_t, sigma_t = schedule.alpha_sigma(t)
    alpha_s, sigma_s = schedule.alpha_sigma(s)
    ratio = torch.where(s == t, 1.0, sigma_s / sigma_t)
    return ratio, torch.where(s == t, 0.0, alpha_s - ratio * alpha_t)


def ddim_map(schedule: Schedule, x_t: Tensor, x_0: Tensor, t: Time, s: Time) -> Tensor:
    r"""The step of DDIM from t to s, :math:`\frac{\sigma_s}{\sigma_t} x_t + (\alpha_s - \frac{\sigma_s}{\sigma_t}
    \alpha_t)\, x_0`.
    """
    ratio, weight = (expand_like(v, x_t) for v in map_coefficients(schedule, t, s))
    return ratio * x_t + weight * x_0


def mean_data(schedule: Schedule, x_t: Tensor, x_s: Tensor, t: Time, s: Time) -> Tensor:
    """The mean data with which `ddim_map` takes x_t to x_s, s < t: its inverse."""
    ratio, weight = (expand_like(v, x_t) for v in map_coefficients(schedule, t, s))
    return (x_s - ratio * x_t) / weight


def as_time(t: Time) -> Time:
    """A time as the schedules take it, float64 on the CPU."""
    return torch.as_tensor(t, dtype=torch.float64, device="cpu")

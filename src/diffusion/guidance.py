"""Guidance: functions of (denoise, schedule) that return another denoise."""

import math
from collections.abc import Callable
from typing import Annotated, TypeVar

import annotated_types as at
import torch
from torch import Tensor

from src.diffusion.conditions import null_like
from src.diffusion.denoiser import Denoiser, Prediction
from src.diffusion.schedules import Schedule, Time, expand_like

DenoiseFn = Callable[[Tensor, Tensor, Tensor | None], Prediction]
Guidance = Callable[[DenoiseFn, Schedule], DenoiseFn]
Aux = TypeVar("Aux")


class NoGuidance:
    """No guidance."""

    def __call__(self, denoise: DenoiseFn, schedule: Schedule) -> DenoiseFn:
        return denoise


class CFG:
    r"""Guide away from the unconditional prediction.

    .. math:: \hat x_0 = \hat x_0(\varnothing) + w\, (\hat x_0(y) - \hat x_0(\varnothing))

    Both predictions are evaluated in one call on a doubled batch. Without a condition nothing changes.

    Args:
        scale: w; 1 for conditional, 0 for unconditional sampling.
        rescale: how far the standard deviation is rescaled to that of :math:`\hat x_0(y)`, in [0, 1], which reduces
            the high contrast of strong guidance.

    Source: Ho, Salimans 2022, arXiv:2207.12598, eq. 6 (there with w - 1 for w); rescale: Lin et al. 2024,
    arXiv:2305.08891, eq. 15 and 16.
    """

    needs_condition = True

    def __init__(self, scale: float = 2.0, rescale: Annotated[float, at.Interval(ge=0, le=1)] = 0.0):
        if not 0 <= rescale <= 1:
            raise ValueError(f"guidance.rescale must be in [0, 1], got {rescale}")
        self.scale, self.rescale = scale, rescale

    def __call__(self, denoise: DenoiseFn, schedule: Schedule) -> DenoiseFn:
        def guided(x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
            if cond is None or self.scale == 1:
                return denoise(x_t, t, cond)
            both = torch.cat([cond, null_like(cond)])
            times = torch.cat([t, t]) if t.ndim else t
            x_0, variance = denoise(torch.cat([x_t, x_t]), times, both)
            conditional, unconditional = x_0.chunk(2)
            guided_x_0 = torch.lerp(unconditional, conditional, self.scale)
            if self.rescale:
                ratio = std_per_sample(conditional) / std_per_sample(guided_x_0)
                guided_x_0 = guided_x_0 * (1 + self.rescale * (ratio - 1))
            return Prediction(guided_x_0, None if variance is None else variance.chunk(2)[0])

        return guided


class IntervalGuidance:
    r"""Guide only between two noise levels, :math:`\sigma_\min \le \sigma_t / \alpha_t \le \sigma_\max`.

    At other noise levels guidance does not improve samples; there it is left out, with its evaluations.

    Args:
        guidance: the guidance in the interval.
        sigma_min, sigma_max: :math:`\sigma_\min` and :math:`\sigma_\max`.

    Source: Kynkäänniemi et al. 2024, arXiv:2404.07724, eq. 4.
    """

    def __init__(
        self,
        guidance: Guidance,
        sigma_min: Annotated[float, at.Ge(0)] = 0.2,
        sigma_max: Annotated[float, at.Gt(0), at.Le(math.inf)] = 5.0,
    ):
        if not 0 <= sigma_min < sigma_max:
            raise ValueError(f"guidance must have 0 <= sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
        self.guidance, self.sigma_min, self.sigma_max = guidance, sigma_min, sigma_max

    def __call__(self, denoise: DenoiseFn, schedule: Schedule) -> DenoiseFn:
        inside = self.guidance(denoise, schedule)
        conditional = getattr(self.guidance, "conditional", True)  # False if the denoiser is not given the label

        def guided(x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
            ratio = torch.exp(-schedule.log_snr(t) / 2)
            within = (self.sigma_min <= ratio) & (ratio <= self.sigma_max)
            if within.any() != within.all():
                raise ValueError("guidance=interval needs one time for the whole batch")
            return inside(x_t, t, cond) if within.all() else denoise(x_t, t, cond if conditional else None)

        return guided


class AutoGuidance:
    r"""Guide away from the prediction of a weaker model of the same kind, such as an earlier checkpoint or a smaller
    net.

    .. math:: \hat x_0 = \hat x_0^\text{weak} + w\, (\hat x_0 - \hat x_0^\text{weak})

    It needs no labels, but an evaluation of the weaker model each time. That model may have another schedule: it is
    evaluated at the same signal-to-noise ratio.

    Args:
        guide_model: the weaker model.
        scale: w; 1 for no guidance.

    Source: Karras et al. 2024, arXiv:2406.02507, eq. 5.
    """

    def __init__(self, guide_model: Denoiser, scale: float = 2.0):
        self.guide_model, self.scale = guide_model, scale

    def __call__(self, denoise: DenoiseFn, schedule: Schedule) -> DenoiseFn:
        def guided(x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
            strong = denoise(x_t, t, cond)
            if self.scale == 1:
                return strong
            guide = self.guide_model.to(x_t.device).eval()
            weak = guide(*to_schedule(x_t, t, schedule, guide.schedule), cond).x_0
            return strong._replace(x_0=torch.lerp(weak, strong.x_0, self.scale))

        return guided


def to_schedule(x_t: Tensor, t: Tensor, schedule: Schedule, other: Schedule) -> tuple[Tensor, Tensor]:
    """The noisy data on another schedule: x_t rescaled, and the time with the same log-SNR."""
    alpha, sigma = schedule.alpha_sigma(t)
    if all(map(torch.equal, (alpha, sigma), other.alpha_sigma(t))):
        return x_t, t
    there = other.inverse_log_snr(schedule.log_snr(t))
    return expand_like(other.alpha_sigma(there)[1] / sigma, x_t) * x_t, there


class ClassifierGuidance:
    r"""Guide by the gradient of a classifier's log-probability of the label.

    .. math:: \nabla \log p(x_t) \mathrel{+}= w\, \nabla \log p(y | x_t), \quad \text{that is} \quad
              \hat x_0 \mathrel{+}= w\, \frac{\sigma_t^2}{\alpha_t} \nabla_{x_t} \log p(y | x_t)

    Without signal x_t is independent of y, and nothing is added.

    Args:
        log_prob: differentiable ``log_prob(x_t, t, y)`` of (B, C, *S), () and (B,), which returns (B,).
        scale: w.
        conditional: True if the denoiser is given the label too.

    Source: Dhariwal, Nichol 2021, arXiv:2105.05233, eq. 11 to 14.
    """

    needs_condition = True
    needs_label = True  # even if the denoiser does not

    def __init__(self, log_prob: Callable[[Tensor, Tensor, Tensor], Tensor], scale: float = 1.0,
                 conditional: bool = False):  # fmt: skip
        self.log_prob, self.scale, self.conditional = log_prob, scale, conditional

    def __call__(self, denoise: DenoiseFn, schedule: Schedule) -> DenoiseFn:
        def guided(x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
            prediction = denoise(x_t, t, cond if self.conditional else None)
            gain = gradient_gain(schedule, t, self.scale)
            if cond is None or gain is None:
                return prediction
            gradient, _ = log_prob_gradient(lambda x: (self.log_prob(x, t.clone(), cond.clone()), None), x_t)
            return prediction._replace(x_0=prediction.x_0 + expand_like(gain, x_t) * gradient)

        return guided


def gradient_gain(schedule: Schedule, t: Time, scale: float) -> Time | None:
    r""":math:`w \sigma_t^2 / \alpha_t`, the factor of the gradient of a log-probability in :math:`\hat x_0`.

    It is 0 where x_t is pure signal or pure noise, and None if it is 0 for the whole batch.
    """
    alpha, sigma = schedule.alpha_sigma(t)
    mixed = (alpha > 1e-8 * sigma) & (sigma > 0)
    if scale == 0 or not mixed.any():
        return None
    return torch.where(mixed, scale * sigma**2 / alpha, 0.0).detach()


def log_prob_gradient(f: Callable[[Tensor], tuple[Tensor, Aux]], x_t: Tensor) -> tuple[Tensor, Aux]:
    """The gradient at x_t of the log-probability (B,), the first value of f, and the second value of f.

    It works in inference mode too; f must clone the tensors that it captures.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = x_t.clone().requires_grad_()
        log_prob, aux = f(x)
        (gradient,) = torch.autograd.grad(log_prob.sum(), x)
    return gradient, aux


def std_per_sample(x: Tensor) -> Tensor:
    """The standard deviation of each sample, (B, 1, ...)."""
    return x.flatten(1).std(1).view(-1, *[1] * (x.ndim - 1))

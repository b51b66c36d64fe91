"""Guidance: functions of (denoise, schedule) that return another denoise."""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Annotated, TypeVar

import annotated_types as at
import torch
from torch import Tensor

from src.diffusion.conditions import Cond, cat_cond, class_of, null_like
from src.diffusion.denoiser import Denoiser, Prediction
from src.diffusion.schedules import Schedule, Time, expand_like

DenoiseFn = Callable[[Tensor, Tensor, Cond | None], Prediction]
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

    Several conditions :math:`y_1, \dots, y_m` are guided towards as one, or each with a scale of its own, added one
    after another in their order in the condition, by one evaluation more for each other scale:

    .. math:: \hat x_0 = \hat x_0(\varnothing) + \sum_{i=1}^m w_i\,
              (\hat x_0(y_1, \dots, y_i) - \hat x_0(y_1, \dots, y_{i - 1}))

    Args:
        scale: w; 1 for conditional, 0 for unconditional sampling. Or the :math:`w_i` by the name of the condition; 1
            for a condition that is not named.
        rescale: how far the standard deviation is rescaled to that of :math:`\hat x_0(y)`, in [0, 1], which reduces
            the high contrast of strong guidance.

    Source: Ho, Salimans 2022, arXiv:2207.12598, eq. 6 (there with w - 1 for w); several scales: Brooks et al. 2023,
    arXiv:2211.09800, eq. 3; rescale: Lin et al. 2024, arXiv:2305.08891, eq. 15 and 16.
    """

    needs_condition = True

    def __init__(
        self, scale: float | Mapping[str, float] = 2.0, rescale: Annotated[float, at.Interval(ge=0, le=1)] = 0.0
    ):
        if not 0 <= rescale <= 1:
            raise ValueError(f"guidance.rescale must be in [0, 1], got {rescale}")
        self.scale = dict(scale) if isinstance(scale, Mapping) else scale
        self.rescale = rescale

    def __call__(self, denoise: DenoiseFn, schedule: Schedule) -> DenoiseFn:
        def guided(x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
            if cond is None:
                return denoise(x_t, t, cond)
            conds, scales = scale_chain(cond, self.scale)
            if not scales:
                return denoise(x_t, t, cond)
            n = len(conds)
            times = torch.cat([t] * n) if t.ndim else t
            x_0, variance = denoise(torch.cat([x_t] * n), times, cat_cond(conds))
            *more, first = x_0.unflatten(0, (n, -1))
            guided_x_0 = torch.lerp(first, more[-1], scales[-1])
            for (fuller, emptier), scale in zip(pairwise(more), scales, strict=False):
                guided_x_0 = guided_x_0 + scale * (fuller - emptier)
            if self.rescale:
                ratio = std_per_sample(more[0]) / std_per_sample(guided_x_0)
                guided_x_0 = guided_x_0 * (1 + self.rescale * (ratio - 1))
            return Prediction(guided_x_0, None if variance is None else variance.unflatten(0, (n, -1))[0])

        return guided


def scale_chain(cond: Cond, scale: float | Mapping[str, float]) -> tuple[list[Cond], list[float]]:
    r"""The conditions whose predictions classifier-free guidance combines, and the scales of their differences.

    Args:
        cond: one condition or several by name.
        scale: one scale, or one for each name.

    Returns:
        Conditions from the full one to the emptiest, and the scale of the difference of each to the next; no scales if
        all are 1. Neighbors of equal scale are added as one, and a scale of 1 at the beginning needs no difference.

    Raises:
        ValueError: for the scale of a condition that there is not.
    """
    if not isinstance(scale, Mapping):
        return [cond, null_like(cond)], [] if scale == 1 else [scale]
    names = list(cond) if isinstance(cond, dict) else list(scale)[:1]  # a single condition may have any name
    if unknown := [name for name in scale if name not in names]:
        raise ValueError(f"guidance.scale names {unknown[0]}, but the conditions of this run are {', '.join(names)}")
    scales = [float(scale.get(name, 1)) for name in names]
    conds, chain = [cond], []
    for i in reversed(range(len(names))):
        if scales[i] != (scales[i - 1] if i else 1):
            conds.append(withheld(cond, names[i:]))
            chain.append(scales[i])
    return conds, chain


def withheld(cond: Cond, names: list[str]) -> Cond:
    """The null value in place of the conditions of these names."""
    if not isinstance(cond, dict):
        return null_like(cond)
    return {name: null_like(value) if name in names else value for name, value in cond.items()}


class IntervalGuidance:
    r"""Guide only between two noise levels, :math:`\sigma_\min \le \sigma_t / \alpha_t \le \sigma_\max`.

    At other noise levels guidance does not improve samples; there it is left out, with its evaluations. In a batch of
    several times, and in an exported graph, both are evaluated and each sample gets its own.

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
        inside, outside = self.guidance(denoise, schedule), self.unguided(denoise, schedule)

        def guided(x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
            within = self.within(schedule, t)
            if not torch.compiler.is_exporting() and within.any() == within.all():
                return (inside if within.all() else outside)(x_t, t, cond)
            chosen = within if within.ndim == 0 else within.to(x_t.device).view(-1, *[1] * (x_t.ndim - 1))
            a, b = inside(x_t, t, cond), outside(x_t, t, cond)
            variance = None
            if a.variance is not None and b.variance is not None:
                variance = torch.where(chosen, a.variance, b.variance)
            return Prediction(torch.where(chosen, a.x_0, b.x_0), variance)

        return guided

    def within(self, schedule: Schedule, t: Time) -> Tensor:
        """True for each time in the interval."""
        ratio = torch.exp(-schedule.log_snr(t) / 2)
        return (self.sigma_min <= ratio) & (ratio <= self.sigma_max)

    def unguided(self, denoise: DenoiseFn, schedule: Schedule) -> DenoiseFn:
        """The denoiser outside the interval, without the label where the guidance does not give it one."""
        conditional = getattr(self.guidance, "conditional", True)

        def unguided(x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
            return denoise(x_t, t, cond if conditional else None)

        return unguided

    def at(self, schedule: Schedule, t: Time) -> Guidance:
        """The guidance at one time."""
        return self.guidance if bool(self.within(schedule, t)) else self.unguided


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
        def guided(x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
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
        def guided(x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
            prediction = denoise(x_t, t, cond if self.conditional else None)
            gain, label = gradient_gain(schedule, t, self.scale), class_of(cond)
            if label is None or gain is None:
                return prediction
            gradient, _ = log_prob_gradient(lambda x: (self.log_prob(x, t.clone(), label.clone()), None), x_t)
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

r"""Losses of a denoiser, one value per sample.

Most compare :math:`\hat x_0` with x_0 under a weighting in the space of the data: with `mse` and the weighting
`simple` the loss is the squared error of the noise, with `v` that of v, with `uniform` that of the data; see
:mod:`src.diffusion.weightings`. `vlb` and `hybrid` contain the variational bound.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Gt, Interval
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from src.diffusion import learned_schedule as learned
from src.diffusion import weightings
from src.diffusion.conditions import Cond
from src.diffusion.denoiser import Denoiser, Prediction
from src.diffusion.schedules import Schedule, Time, expand_like
from src.diffusion.vlb import prior_kl, vlb_term

Weighting = Callable[[Schedule, Time], Time]


class StepSizes(NamedTuple):
    """Sizes of something in the last training step, (b,), with the times of the samples."""

    values: Tensor
    t: Time
    s: Time


class Loss(ABC):
    """The base class of losses. A new one implements `__call__`, or `elementwise` of :class:`Weighted`.

    Attributes:
        trains_variance: True if a learned variance gets gradients.
        trains_schedule: True if a learned schedule gets gradients.
        bounded_data: True if the data must be in [-1, 1].
        last_step: what is watched for spikes in training, by name.
        ranks_checkpoints: False if a lower loss says nothing about which weights are better: best.ckpt is then the
            newest.
    """

    trains_variance = False
    trains_schedule = False
    bounded_data = False
    last_step: Mapping[str, StepSizes] = {}
    ranks_checkpoints = True

    @abstractmethod
    def __call__(
        self,
        denoiser: Denoiser,
        x_0: Float[Tensor, "batch *data"],
        t: Float[Tensor, " batch"],
        noise: Float[Tensor, "batch *data"],
        cond: Cond | None = None,
    ) -> Float[Tensor, " batch"]:
        """The loss of each sample."""

    def check(self, denoiser: Denoiser) -> None:
        """Raise ValueError if this loss leaves a learned part of the denoiser untrained."""
        if denoiser.variance.outputs > 1 and not self.trains_variance:
            raise ValueError(
                "this loss does not train the variance: use loss=hybrid, loss=vlb with loss.steps, or "
                "variance=fixed_small"
            )
        if isinstance(denoiser.schedule, learned.LearnedSchedule) and not self.trains_schedule:
            raise ValueError("this loss does not train the schedule: use loss=vlb loss.steps=null, or schedule=cosine")

    def figures(self) -> dict[str, float]:
        """Further values of the last training step, by the name under which they are logged."""
        return {}

    def check_data(self, x_0: Tensor) -> None:
        """Raise ValueError if some samples are outside the range that this loss needs."""
        if self.bounded_data and (most := x_0.abs().max().item()) > 1:
            raise ValueError(f"this loss needs data in [-1, 1], got values up to {most:.3g}; use loss=mse")


class Weighted(Loss):
    """Weighted comparison of predicted and true data, averaged over the elements of a sample.

    Args:
        weighting: maps (schedule, t) to w.
    """

    def __init__(self, weighting: Weighting):
        self.weighting = weighting

    def check(self, denoiser):
        super().check(denoiser)
        middle = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
        weights = self.weighting(denoiser.schedule, middle).tolist()
        if not all(0 <= w < math.inf for w in weights):
            raise ValueError(f"the weighting must be finite and >= 0, got {weights} at t = {middle.tolist()}")

    @abstractmethod
    def elementwise(self, predicted: Tensor, x_0: Tensor, weight: Tensor) -> Tensor:
        """The loss of each element, (B, C, *S); `weight` (B, 1, ...) is the factor of a squared error."""

    def __call__(self, denoiser, x_0, t, noise, cond=None):
        predicted = denoiser(denoiser.schedule.add_noise(x_0, t, noise), t, cond).x_0
        weight = expand_like(self.weighting(denoiser.schedule, t), x_0)
        return self.elementwise(predicted, x_0, weight).flatten(1).mean(1)


class MSE(Weighted):
    r"""Squared error, :math:`w\, (\hat x_0 - x_0)^2`."""

    def elementwise(self, predicted, x_0, weight):
        return (weight.sqrt() * (predicted - x_0)).square()


class L1(Weighted):
    r"""Absolute error, :math:`\sqrt{w}\, |\hat x_0 - x_0|`."""

    def elementwise(self, predicted, x_0, weight):
        return weight.sqrt() * (predicted - x_0).abs()


class Huber(Weighted):
    r"""Huber loss of :math:`r = \sqrt{w} (\hat x_0 - x_0)`: :math:`r^2 / 2` below `delta`, linear above."""

    def __init__(self, weighting: Weighting, delta: Annotated[float, Gt(0)] = 1.0):
        super().__init__(weighting)
        self.delta = _check_positive("delta", delta)

    def elementwise(self, predicted, x_0, weight):
        residual = weight.sqrt() * (predicted - x_0)
        return F.huber_loss(residual, torch.zeros_like(residual), reduction="none", delta=self.delta)


class PseudoHuber(Weighted):
    r"""Smooth Huber loss of the whole sample, :math:`(\sqrt{\lVert r \rVert^2 + D c^2} - \sqrt D c) / \sqrt D`.

    Args:
        weighting: maps (schedule, t) to w; :math:`r = \sqrt{w} (\hat x_0 - x_0)` with D elements.
        c: transition from squared to absolute, per element; the constant of the paper for images is
            :math:`0.00054 \sqrt D` for the whole sample.

    Source: Song, Dhariwal 2024, arXiv:2310.14189, eq. 8; Lee et al. 2024, arXiv:2405.20320.
    """

    def __init__(self, weighting: Weighting, c: Annotated[float, Gt(0)] = 0.03):
        super().__init__(weighting)
        self.c = _check_positive("c", c)

    def elementwise(self, predicted, x_0, weight):
        power = (weight.sqrt() * (predicted - x_0)).square().flatten(1).mean(1)
        return ((power + self.c**2).sqrt() - self.c)[:, None]


class BCE(Weighted):
    r"""Binary cross-entropy of the data rescaled to [0, 1], :math:`-p \log \hat p - (1 - p) \log(1 - \hat p)`.

    Its minimum is the entropy of p. Predictions are not bounded to [0, 1], the domain of the logarithms, so outside
    [margin, 1 - margin] (or outside p, if p is further out) the loss continues linearly, with the slope at that point
    and at least slope 1.
    """

    bounded_data = True

    def __init__(self, weighting: Weighting, margin: Annotated[float, Interval(gt=0, lt=0.5)] = 1e-3):
        super().__init__(weighting)
        if not 0 < margin < 0.5:
            raise ValueError(f"loss.margin must be in (0, 0.5), got {margin}")
        self.margin = margin

    def elementwise(self, predicted, x_0, weight):
        p, q = ((x_0 + 1) / 2).clamp(0, 1), (predicted + 1) / 2
        inside = q.clamp(p.clamp(max=self.margin), p.clamp(min=1 - self.margin))
        slope = ((inside - p) / (inside * (1 - inside))).detach().abs().nan_to_num(0.0).clamp(min=1)
        return weight * (F.binary_cross_entropy(inside, p, reduction="none") + slope * (q - inside).abs())


class Perceptual(Weighted):
    r"""Mean squared error in the features of a network, :math:`w \sum_l \overline{(\phi_l(\hat x_0) - \phi_l(x_0))^2}`.

    Args:
        weighting: maps (schedule, t) to w.
        features: network from (B, C, *S) to a tensor or a list of tensors, each (B, ...); it is frozen.

    Source: Johnson et al. 2016, arXiv:1603.08155, section 3.2.
    """

    def __init__(self, weighting: Weighting, features: nn.Module):
        super().__init__(weighting)
        self.features = features.eval().requires_grad_(False)

    def elementwise(self, predicted, x_0, weight):
        self.features.to(x_0.device)
        pairs = zip(self._list(predicted), self._list(x_0), strict=True)
        return sum(weight.flatten(1) * (a - b).square().flatten(1).mean(1, keepdim=True) for a, b in pairs)

    def _list(self, x: Tensor) -> list[Tensor]:
        features = self.features(x)
        return [features] if isinstance(features, Tensor) else list(features)


class VLB(Loss):
    r"""Variational bound in bits per dimension; the mean over uniform times is an unbiased estimate.

    Args:
        steps: T; times are rounded up to k / T, and the term of that step is multiplied by T. None for the limit of
            infinitely many steps, :math:`-\tfrac12 \text{SNR}'(t) \lVert \hat x_0 - x_0 \rVert^2`, without the
            decoder term; a learned schedule needs it.
        num_levels: number of values of discrete data, 256 for images; None for the density of continuous data.

    Source: Ho et al. 2020, arXiv:2006.11239, eq. 5; Kingma et al. 2021, arXiv:2107.00630, eq. 14 and 17.
    """

    def __init__(self, steps: Annotated[int, Ge(1)] | None = 1000, num_levels: Annotated[int, Ge(2)] | None = None):
        self.steps, self.num_levels = _check_steps(steps), num_levels
        self.trains_variance, self.trains_schedule = steps is not None, steps is None

    def __call__(self, denoiser, x_0, t, noise, cond=None):
        if self.steps is None:
            losses = MSE(weightings.likelihood_weighting)(denoiser, x_0, t, noise, cond)
            if isinstance(denoiser.schedule, learned.LearnedSchedule):
                denoiser.schedule.set_losses(losses)
        else:
            s, t = round_to_step(t, self.steps)
            x_t = denoiser.schedule.add_noise(x_0, t, noise)
            losses = self.steps * vlb_term(denoiser, x_0, x_t, s, t, denoiser(x_t, t, cond), self.num_levels)
        return (losses + prior_kl(denoiser.schedule, x_0)) / math.log(2)


class Hybrid(Weighted):
    r"""Weighted squared error, which trains the mean, plus `scale` times the bound, which trains the variance.

    Args:
        weighting: weighting of the squared error.
        steps: T; times are rounded up to k / T.
        scale: :math:`\lambda` of the paper.
        num_levels: as in `VLB`.

    Source: Nichol, Dhariwal 2021, arXiv:2102.09672, eq. 16.
    """

    trains_variance = True

    def __init__(
        self,
        weighting: Weighting,
        steps: Annotated[int, Ge(1)] = 1000,
        scale: Annotated[float, Gt(0)] = 0.001,
        num_levels: Annotated[int, Ge(2)] | None = None,
    ):
        super().__init__(weighting)
        self.steps, self.scale, self.num_levels = _check_steps(steps), scale, num_levels

    def elementwise(self, predicted, x_0, weight):
        return (weight.sqrt() * (predicted - x_0)).square()

    def __call__(self, denoiser, x_0, t, noise, cond=None):
        s, t = round_to_step(t, self.steps)
        x_t = denoiser.schedule.add_noise(x_0, t, noise)
        prediction = denoiser(x_t, t, cond)
        weight = expand_like(self.weighting(denoiser.schedule, t), x_0)
        simple = self.elementwise(prediction.x_0, x_0, weight).flatten(1).mean(1)
        still = Prediction(prediction.x_0.detach(), prediction.variance)
        bound = self.steps * vlb_term(denoiser, x_0, x_t, s, t, still, self.num_levels)
        return simple + self.scale * (bound + prior_kl(denoiser.schedule, x_0)) / math.log(2)

    def check(self, denoiser):
        super().check(denoiser)
        if denoiser.variance.outputs == 1:
            raise ValueError("loss=hybrid needs a learned variance: use variance=learned_range, or loss=mse")


def round_to_step(t: Time, steps: int) -> tuple[Time, Time]:
    """Round t up to a multiple k / T, T = steps; returns ((k - 1) / T, k / T)."""
    k = torch.ceil(t * steps - 1e-9 * steps).clamp(1, steps)
    return (k - 1) / steps, k / steps


def _check_steps(steps: int | None) -> int | None:
    if steps is not None and steps < 1:
        raise ValueError(f"loss.steps must be >= 1, got {steps}")
    return steps


def _check_positive(name: str, value: float) -> float:
    if value <= 0:
        raise ValueError(f"loss.{name} must be > 0, got {value}")
    return value

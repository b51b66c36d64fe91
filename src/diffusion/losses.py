r"""Losses: how far the predicted data is from the data, for every sample of a batch.

Most compare :math:`\hat x_0` with x_0 under a weighting, which is stated in the space of the data; with `mse` and the
weighting `simple` that is the squared error of the noise, with `v` that of v, with `uniform` that of the data;
see :mod:`src.diffusion.weightings`. `vlb` and `hybrid` are the variational bound.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from src.diffusion import learned_schedule as learned
from src.diffusion import weightings
from src.diffusion.denoiser import Denoiser, Prediction
from src.diffusion.schedules import Schedule, Time, expand_like
from src.diffusion.vlb import prior_kl, vlb_term

Weighting = Callable[[Schedule, Time], Time]


class Loss(ABC):
    """A new one is one method, the call; one that compares x_0 is one method, `elementwise`, of a `Weighted`."""

    trains_variance = False
    trains_schedule = False
    bounded_data = False

    @abstractmethod
    def __call__(
        self,
        denoiser: Denoiser,
        x_0: Float[Tensor, "batch *data"],
        t: Float[Tensor, " batch"],
        noise: Float[Tensor, "batch *data"],
        cond: Tensor | None = None,
    ) -> Float[Tensor, " batch"]:
        """The loss of every sample."""

    def check(self, denoiser: Denoiser) -> None:
        """Refuse a denoiser of which this loss would leave a part untrained."""
        if denoiser.variance.outputs > 1 and not self.trains_variance:
            raise ValueError(
                "this loss does not train the variance: use loss=hybrid, loss=vlb with loss.steps, or "
                "variance=fixed_small"
            )
        if isinstance(denoiser.schedule, learned.LearnedSchedule) and not self.trains_schedule:
            raise ValueError("this loss does not train the schedule: use loss=vlb loss.steps=null, or schedule=cosine")

    def check_data(self, x_0: Tensor) -> None:
        """Refuse data beyond [-1, 1] where this loss is of bounded data, by a few samples of them."""
        if self.bounded_data and (most := x_0.abs().max().item()) > 1:
            raise ValueError(f"this loss is of data in [-1, 1], but these reach {most:.3g}; use loss=mse")


class Weighted(Loss):
    """The mean over a sample's elements of a weighted comparison.

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
            raise ValueError(f"the weighting is {weights} at t = {middle.tolist()}; it has to be finite and at least 0")

    @abstractmethod
    def elementwise(self, predicted: Tensor, x_0: Tensor, weight: Tensor) -> Tensor:
        """The loss of each element of (B, C, *S); the weight, (B, 1, ...), multiplies a squared error."""

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
    r"""Of :math:`r = \sqrt{w} (\hat x_0 - x_0)`: half the square below `delta`, continued by its tangent."""

    def __init__(self, weighting: Weighting, delta: Annotated[float, Gt(0)] = 1.0):
        super().__init__(weighting)
        self.delta = _check_positive("delta", delta)

    def elementwise(self, predicted, x_0, weight):
        residual = weight.sqrt() * (predicted - x_0)
        return F.huber_loss(residual, torch.zeros_like(residual), reduction="none", delta=self.delta)


class PseudoHuber(Weighted):
    r"""A smooth Huber loss, of the whole sample: :math:`(\sqrt{\lVert r \rVert^2 + D c^2} - \sqrt D c) / \sqrt D`.

    Args:
        weighting: maps (schedule, t) to w; :math:`r = \sqrt{w} (\hat x_0 - x_0)` with D elements.
        c: where squared becomes absolute, in units of one element; the paper's constant for images is
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
    r"""Binary cross-entropy of the data taken to [0, 1], :math:`-p \log \hat p - (1 - p) \log(1 - \hat p)`.

    Its least value is the entropy of p, above 0 where p is neither 0 nor 1. Nothing keeps a prediction within [0, 1],
    where the logarithms end. So beyond [margin, 1 - margin], or p where that lies further out, a straight line takes
    their place, as steep as they are there and at least of slope 1, which pulls back.
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
        features: any network, from (B, C, *S) to a tensor or a list of tensors, each (B, ...); it is frozen.

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
        steps: T; times are rounded up to k / T, and the term of one step counts T times. None for the limit of
            infinitely many steps, :math:`-\tfrac12 \text{SNR}'(t) \lVert \hat x_0 - x_0 \rVert^2`, which leaves out
            the decoder; a learned schedule needs it.
        num_levels: levels of rounded data, 256 for images; None for the density of continuous data.

    Source: Ho et al. 2020, arXiv:2006.11239, eq. 5; Kingma et al. 2021, arXiv:2107.00630, eq. 14 and 17.
    """

    trains_variance = True

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
        weighting: of the squared error.
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
            raise ValueError("loss=hybrid trains a learned variance: use variance=learned_range, or loss=mse")


def round_to_step(t: Time, steps: int) -> tuple[Time, Time]:
    """s and t of the step of k / T that holds t, of T = steps."""
    k = torch.ceil(t * steps - 1e-9 * steps).clamp(1, steps)
    return (k - 1) / steps, k / steps


def _check_steps(steps: int | None) -> int | None:
    """Refuse a bound without terms."""
    if steps is not None and steps < 1:
        raise ValueError(f"loss.steps must be >= 1, got {steps}")
    return steps


def _check_positive(name: str, value: float) -> float:
    """Refuse a scale that is none."""
    if value <= 0:
        raise ValueError(f"loss.{name} must be > 0, got {value}")
    return value

r"""Losses: distances of the weighted residual :math:`r = \sqrt{w(t)}\, (\hat x_0 - x_0)`.

With the weighting `simple` the residual is that of the noise, with `velocity` that of v, with `uniform` that of the
data; see :mod:`src.diffusion.weightings`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from src.diffusion.denoiser import Denoiser
from src.diffusion.schedules import Time, match


class Loss(ABC):
    """A new one is one method, `distance`.

    Args:
        weighting: maps (alpha, sigma) to w.
    """

    def __init__(self, weighting: Callable[[Time, Time], Time]):
        self.weighting = weighting

    @abstractmethod
    def distance(self, residual: Tensor) -> Tensor:
        """The distance of each element of the residual from zero, shaped as it."""

    def __call__(
        self,
        denoiser: Denoiser,
        x_0: Float[Tensor, "batch *data"],
        t: Float[Tensor, " batch"],
        noise: Float[Tensor, "batch *data"],
        cond: Tensor | None = None,
    ) -> Float[Tensor, " batch"]:
        """The loss of every sample, the mean over its elements."""
        x_t = denoiser.schedule.add_noise(x_0, t, noise)
        error = denoiser(x_t, t, cond).x_0 - x_0
        weight = self.weighting(*denoiser.schedule.alpha_sigma(t))
        return self.distance(match(weight.sqrt(), x_0) * error).flatten(1).mean(1)


class MSE(Loss):
    """Squared residual."""

    def distance(self, residual):
        return residual.square()


class L1(Loss):
    """Absolute residual."""

    def distance(self, residual):
        return residual.abs()


class Huber(Loss):
    """Squared below `delta`, linear above: half the square, continued by its tangent."""

    def __init__(self, weighting: Callable[[Time, Time], Time], delta: float = 1.0):
        super().__init__(weighting)
        self.delta = delta

    def distance(self, residual):
        return F.huber_loss(residual, residual.new_zeros(()).expand_as(residual), reduction="none", delta=self.delta)

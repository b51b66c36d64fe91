"""Points in the plane from a Gaussian mixture, whose density and optimal denoiser are known."""

from collections.abc import Sequence
from math import isfinite, log, pi
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from src.data.base import DataModule
from src.data.samples import TensorSamples, split, val_count
from src.utils.errors import UserError
from src.utils.ranges import NonNegativeFloat, NonNegativeInt, OpenFraction, PositiveFloat, PositiveInt
from src.utils.seeding import generator


class GaussianMixture(DataModule):
    r"""Points in the plane from a mixture of K Gaussians with means on a circle.

    .. math:: p(x) = \sum_{k=0}^{K-1} w_k\, N(x;\, \mu_k,\, s^2 I), \quad
              \mu_k = r\, (\cos 2 \pi k / K,\ \sin 2 \pi k / K)

    Samples: float32 (2,), since S is empty, and labels k. With equal weights and K > 2 each axis has mean 0 and
    variance r^2 / 2 + s^2, by default 1. The points exceed [-1, 1]: clip samples at 2 (clip.bound=2) or not at all
    (clip=none).

    Attributes:
        means: mu, (K, 2) float64.
        weights: w, (K,) float64, of sum 1.
        std: s.

    Args:
        n: number of points.
        val_fraction: fraction of them for validation.
        modes: K.
        radius: r.
        std: s.
        weights: K numbers > 0 in proportion to w, such as [2, 1, 1]; None for equal weights.
        channels, size, num_classes, batch_size, num_workers, seed: see DataModule; channels is 2, size is empty,
            num_classes is K, or 0 to ignore the labels. The seed also draws the points.

    Raises:
        UserError: if a value is out of its range.

    Source: the ring of eight as in Metz et al. 2017, arXiv:1611.02163.
    """

    def __init__(
        self,
        n: Annotated[int, Ge(2)] = 20000,
        val_fraction: OpenFraction = 0.1,
        modes: PositiveInt = 8,
        radius: NonNegativeFloat = 1.4,
        std: PositiveFloat = 0.15,
        weights: Sequence[NonNegativeFloat] | None = None,
        channels: PositiveInt = 2,
        size: Sequence[PositiveInt] = (),
        num_classes: NonNegativeInt = 8,
        batch_size: PositiveInt = 256,
        num_workers: Annotated[int, Interval(ge=0, le=1024)] = 0,
        seed: NonNegativeInt = 0,
    ):
        super().__init__(channels, size, num_classes, batch_size, num_workers, seed)
        if self.shape != (2,):
            raise UserError(
                f"data.channels and data.size must be 2 and [] for points in the plane, got {channels} and {list(size)}"
            )
        if modes < 1:
            raise UserError(f"data.modes must be >= 1, got {modes}")
        if not 0 <= radius < float("inf"):
            raise UserError(f"data.radius must be >= 0 and finite, got {radius}")
        if not 0 < std < float("inf"):
            raise UserError(f"data.std must be > 0 and finite, got {std}")
        if num_classes not in (0, modes):
            raise UserError(
                f"data.num_classes must be {modes}, as the labels are the modes, or 0 to ignore them, got {num_classes}"
            )
        self.n, self.n_val, self.modes, self.std = n, val_count(n, val_fraction), modes, std
        angle = 2 * pi * torch.arange(modes, dtype=torch.float64) / modes
        self.means = radius * torch.stack([angle.cos(), angle.sin()], dim=1)
        self.weights = _shares(weights, modes)

    def log_density(self, x: Tensor) -> Tensor:
        """Compute log p(x) of points (B, 2): (B,), float64."""
        squares = (x.double()[:, None] - self.means).square().sum(-1)
        log_parts = self.weights.log() - squares / (2 * self.std**2) - log(2 * pi * self.std**2)
        return log_parts.logsumexp(1)

    def posterior_mean(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        r"""Compute :math:`E[x_0 | x_t]` of :math:`x_t = \alpha x_0 + \sigma \epsilon` (B, 2): (B, 2), float64."""
        means, power = alpha * self.means, (alpha * self.std) ** 2 + sigma**2
        away = x_t.double()[:, None] - means
        share = (self.weights.log() - away.square().sum(-1) / (2 * power)).softmax(1)
        return (share[..., None] * (self.means + alpha * self.std**2 / power * away)).sum(1)

    def load(self) -> None:
        x, label = self._draw()
        train, val = split(self.n, self.n_val, self.seed)
        self.train_set, self.val_set = (
            TensorSamples(x[i], label[i] if self.num_classes else None) for i in (train, val)
        )
        gaussians = f"{self.modes} Gaussians on a circle" if self.modes > 1 else "a Gaussian"
        self.source = f"{len(train):,} train / {len(val):,} validation points from {gaussians}, drawn"

    def _draw(self) -> tuple[Tensor, Tensor]:
        """Draw all points (n, 2) and their modes (n,)."""
        draws = generator(self.seed, "mixture")
        label = torch.multinomial(self.weights, self.n, replacement=True, generator=draws)
        noise = torch.randn(self.n, 2, dtype=torch.float64, generator=draws)
        return (self.means[label] + self.std * noise).float(), label


def _shares(weights: Sequence[float] | None, modes: int) -> Tensor:
    """The weights (modes,), float64, of sum 1."""
    given = [1.0] * modes if weights is None else list(weights)
    if len(given) != modes or not all(isfinite(w) and w > 0 for w in given):
        raise UserError(
            f"data.weights must be {modes} finite numbers > 0, one per mode, got {given}; set data.weights=null for "
            "equal weights"
        )
    shares = torch.tensor(given, dtype=torch.float64)
    return shares / shares.sum()

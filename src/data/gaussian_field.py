"""Random volumes from a Gaussian distribution of known spectrum, whose density and optimal denoiser are known."""

from collections.abc import Sequence
from functools import cached_property
from math import isfinite, log, pi, prod
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from src.data.base import DataModule
from src.data.samples import BatchDataset, TensorSamples, split, val_count
from src.utils.errors import UserError
from src.utils.ranges import NonNegativeFloat, NonNegativeInt, OpenFraction, PositiveFloat, PositiveInt
from src.utils.seeding import generator


class GaussianField(DataModule):
    r"""Stationary Gaussian random fields of variance 1 with a Matérn spectrum, on a periodic grid.

    .. math:: x = \mathcal F^{-1}\big[\sqrt{P(k)}\, \mathcal F[z]\big], \quad z \sim N(0, I), \quad
              P(k) \propto \Big(1 + \sum_i (\ell_i k_i)^2\Big)^{-(\nu + d / 2)} + c

    with k in radians per element, so that :math:`\ell_i` is about the length, in elements, over which values along axis
    i are alike. Samples: float32 (channels, *size), the channels drawn independently. Their values are those of a
    normal distribution, so that no bound clips them without error (clip=none, or clip.bound=null).

    Args:
        n: number of samples.
        val_fraction: fraction of them for validation.
        n_test: number of further samples for evaluation.
        length: l, for each axis, in elements.
        smoothness: nu; 0.5 has an exponential correlation, larger values are smoother.
        noise: share c / (sum of P) of the variance that is white noise.
        channels, size, num_classes, batch_size, num_workers, seed: see DataModule; num_classes is 0. The seed also
            draws the samples.

    Raises:
        UserError: if there is not one length > 0 for each axis, or another value is out of its range.

    Source: Rasmussen, Williams 2006, Gaussian Processes for Machine Learning, eq. 4.15 (spectral density).
    """

    def __init__(
        self,
        n: Annotated[int, Ge(2)] = 4000,
        val_fraction: OpenFraction = 0.1,
        n_test: PositiveInt = 1000,
        length: Sequence[PositiveFloat] = (3.0, 1.5, 1.5),
        smoothness: PositiveFloat = 1.0,
        noise: NonNegativeFloat = 0.01,
        channels: PositiveInt = 1,
        size: Sequence[PositiveInt] = (16, 16, 16),
        num_classes: NonNegativeInt = 0,
        batch_size: PositiveInt = 64,
        num_workers: Annotated[int, Interval(ge=0, le=1024)] = 0,
        seed: NonNegativeInt = 0,
    ):
        super().__init__(channels, size, num_classes, batch_size, num_workers, seed)
        if num_classes:
            raise UserError(f"data.num_classes must be 0, as random fields have no labels, got {num_classes}")
        if len(length) != len(self.size) or not all(isfinite(v) and v > 0 for v in length):
            raise UserError(
                f"data.length must be a number > 0 for each axis of data.size={list(size)}, got {list(length)}"
            )
        if not 0 <= noise < 1:
            raise UserError(f"data.noise must be in [0, 1), a share of the variance, got {noise}")
        self.n, self.n_val, self.n_test = n, val_count(n, val_fraction), n_test
        self.length, self.smoothness, self.noise = tuple(length), smoothness, noise

    @cached_property
    def power(self) -> Tensor:
        """P (*size), float64: the variance of each frequency, those of fftn; its mean is 1."""
        squares = torch.zeros((), dtype=torch.float64)
        for n, length in zip(self.size, self.length, strict=True):
            k = 2 * pi * torch.fft.fftfreq(n, dtype=torch.float64)
            squares = squares[..., None] + (length * k) ** 2
        power = (1 + squares) ** -(self.smoothness + len(self.size) / 2)
        return (1 - self.noise) * power / power.mean() + self.noise

    def log_density(self, x: Tensor) -> Tensor:
        """Compute log p(x) of samples (B, C, *size): (B,), float64."""
        axes = tuple(range(2, x.ndim))
        squares = torch.fft.fftn(x.double(), dim=axes, norm="ortho").abs().square() / self.power
        constant = self.power.log().sum() + prod(self.size) * log(2 * pi)
        return -0.5 * (squares.flatten(1).sum(1) + self.channels * constant)

    def posterior_mean(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        r"""Compute :math:`E[x_0 | x_t]` of :math:`x_t = \alpha x_0 + \sigma \epsilon`, shaped as x_t, float64."""
        axes = tuple(range(2, x_t.ndim))
        gain = alpha * self.power / (alpha**2 * self.power + sigma**2)
        return torch.fft.ifftn(gain * torch.fft.fftn(x_t.double(), dim=axes), dim=axes).real

    def load(self) -> None:
        x = self._draw(self.n, "field")
        train, val = split(self.n, self.n_val, self.seed)
        self.train_set, self.val_set = TensorSamples(x[train]), TensorSamples(x[val])
        shape = " x ".join(map(str, self.size))
        self.source = f"{len(train):,} train / {len(val):,} validation Gaussian random {self.kind} of {shape}, drawn"

    @cached_property
    def test_set(self) -> BatchDataset:  # type: ignore[override]
        return TensorSamples(self._draw(self.n_test, "field test"))

    def _draw(self, n: int, purpose: str) -> Tensor:
        """Draw samples (n, channels, *size), independently for each purpose."""
        draws, axes = generator(self.seed, purpose), tuple(range(2, 2 + len(self.size)))
        gain, parts = self.power.sqrt().float(), []
        for part in torch.arange(n).split(256):
            white = torch.randn(len(part), *self.shape, generator=draws)
            parts.append(torch.fft.ifftn(torch.fft.fftn(white, dim=axes) * gain, dim=axes).real)
        return torch.cat(parts)

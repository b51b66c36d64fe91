"""Statistics of arrays in one pass, and the units that follow from them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from src.data.array_rows import Rows
from src.utils.errors import UserError
from src.utils.units import IMAGES, Units

Normalize = Literal["standard", "minmax", "robust", "none"]
CHUNK = 1 << 24  # bytes read at a time
WHOLE = 1 << 28  # bytes up to which a file is read as a whole
MOST = 1 << 26  # bytes that are read of a larger one, in BLOCKS evenly spaced blocks
BLOCKS = 64
KEPT = 1 << 20  # values of which quantiles are computed
MARGIN = 0.05  # of the range, by which samples may exceed that of the training data


@dataclass
class ChannelMoments:
    """ChannelMoments and extremes of samples for each channel, in float64.

    Attributes:
        n: number of values of a channel.
        mean, squares: mean, and sum of squared deviations from it.
        low, high: extremes.
        some: evenly spaced values of each channel, for quantiles.
    """

    n: int = 0
    mean: np.ndarray = field(default_factory=lambda: np.zeros(1))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(1))
    low: np.ndarray = field(default_factory=lambda: np.full(1, math.inf))
    high: np.ndarray = field(default_factory=lambda: np.full(1, -math.inf))
    some: list[np.ndarray] = field(default_factory=list)

    def add(self, x: np.ndarray, every: int) -> None:
        """Add values (C, M), of which each `every`-th is kept (Chan, Golub, LeVeque 1979)."""
        n, mean = x.shape[1], x.mean(1)
        squares = np.square(x - mean[:, None]).sum(1)
        total = self.n + n
        delta = mean - self.mean
        self.squares = self.squares + squares + delta**2 * self.n * n / total
        self.mean = self.mean + delta * n / total
        self.low, self.high = np.minimum(self.low, x.min(1)), np.maximum(self.high, x.max(1))
        self.some.append(x[:, ::every].astype(np.float32))
        self.n = total

    @property
    def std(self) -> np.ndarray:
        """The standard deviation of each channel."""
        return np.sqrt(self.squares / max(1, self.n))


@dataclass
class Statistics:
    """The statistics of the training and of the validation samples.

    Attributes:
        train, val: their moments.
        read: fraction of the samples that were read.
    """

    train: ChannelMoments
    val: ChannelMoments
    read: float


def measure(rows: Rows, part: np.ndarray, per_channel: bool, name: str) -> Statistics:
    """Read the samples once, in order; of files larger than 256 MB 64 evenly spaced blocks.

    Args:
        rows: the samples.
        part: (N,) 0 for training and 1 for validation samples; others are left out.
        per_channel: False to treat all channels as one.
        name: where they are from, for messages.

    Raises:
        UserError: for values that are not finite, naming the first sample that has some.
    """
    found, read = (ChannelMoments(), ChannelMoments()), 0
    every = max(1, min(rows.sample_bytes * len(rows), WHOLE) // (rows.dtype.itemsize * KEPT))
    for first, last in blocks(rows):
        x = rows[np.arange(first, last)].astype(np.float64)
        read += last - first
        good = np.isfinite(x.reshape(len(x), -1)).all(1)
        if not good.all():
            bad = first + int(np.flatnonzero(~good)[0])
            raise UserError(
                f"{name}: sample {bad} holds NaN or infinity, as {(~good).sum():,} of the {len(x):,} read with it; "
                "remove these samples or replace the values"
            )
        x = x.reshape(len(x), x.shape[1], -1).swapaxes(0, 1)  # (C, B, M)
        for i, moments in enumerate(found):
            mine = part[first:last] == i
            if mine.any():
                values = x[:, mine]
                moments.add(values.reshape(len(x) if per_channel else 1, -1), every)
    return Statistics(*found, read / len(rows))


def blocks(rows: Rows) -> Iterator[tuple[int, int]]:
    """The first and last sample of each block that is read."""
    size = max(1, CHUNK // max(1, rows.sample_bytes))
    if rows.sample_bytes * len(rows) <= WHOLE:
        yield from ((first, min(first + size, len(rows))) for first in range(0, len(rows), size))
        return
    size = max(1, min(size, MOST // BLOCKS // max(1, rows.sample_bytes)))
    for first in np.linspace(0, len(rows) - size, min(BLOCKS, len(rows) // size)).astype(int):
        yield int(first), int(first) + size


def units_from(moments: ChannelMoments, normalize: Normalize, axes: int) -> Units:
    r"""The units in which data of these moments are normalized in the model.

    `standard`: mean 0 and standard deviation 1; `minmax`: [-1, 1]; `robust`: median 0, and quartiles as those of a
    standard normal distribution, for data with outliers; `none`: as they are. A constant channel is 0.

    Args:
        moments: of the training samples.
        normalize: as above.
        axes: axes of a sample besides the channels.
    """
    low, high = moments.low, moments.high
    if normalize == "standard":
        shift, scale = moments.mean, moments.std
    elif normalize == "minmax":
        shift, scale = (low + high) / 2, (high - low) / 2
    elif normalize == "robust":
        q = np.quantile(np.concatenate(moments.some, 1).astype(np.float64), [0.25, 0.5, 0.75], axis=1)
        shift, scale = q[1], (q[2] - q[0]) / 1.3489795
        scale = np.where(scale > 0, scale, moments.std)  # most values are equal
    else:
        shift, scale = np.zeros_like(low), np.ones_like(low)
    constant = is_constant(moments)
    scale = np.where(constant & (normalize != "none"), np.where(low == 0, 1.0, np.abs(low)), scale)
    margin = np.where(constant, scale, MARGIN * (high - low))
    ends = (tuple(map(float, v)) for v in (scale, shift, low - margin, high + margin))
    scales, shifts, lows, highs = ends
    return Units(scales, shifts, axes, lows, highs)


def is_constant(moments: ChannelMoments) -> np.ndarray:
    """True for each channel without variation beyond rounding."""
    return moments.std <= 1e-12 * np.maximum(np.abs(moments.mean), 1e-300)


def image_units(moments: ChannelMoments, dtype: np.dtype, name: str) -> Units:
    """The units of images.

    Raises:
        UserError: for values other than uint8 or [0, 1].
    """
    white = 255.0 if dtype == np.uint8 else 1.0
    if float(moments.low.min()) < -1e-6 or float(moments.high.max()) > white * (1 + 1e-6):
        raise UserError(
            f"data.kind=images: images must be in [0, 1] or uint8, but {name} reaches from {moments.low.min():.3g} to "
            f"{moments.high.max():.3g}; scale them, or set data.kind=fields to keep their own units"
        )
    return IMAGES


def remarks(statistics: Statistics, n_channels: int) -> list[str]:
    """What is odd about the data: constant channels, and spreads of training and validation that differ greatly."""
    train, val, found = statistics.train, statistics.val, []
    if (constant := is_constant(train)).any():
        which = ", ".join(map(str, np.flatnonzero(constant)[:10])) if len(constant) > 1 else "the only one"
        found.append(
            f"{constant.sum()} of {n_channels} channels are constant in the training samples ({which}); leave them out"
        )
    if val.n:
        ratio = np.where(constant | is_constant(val), 1.0, train.std / np.where(val.std > 0, val.std, 1.0))
        worst = int(np.argmax(np.abs(np.log(np.maximum(ratio, 1e-300)))))
        if not 1e-3 < ratio[worst] < 1e3:
            found.append(
                f"the spread of the training samples is {ratio[worst]:.3g} times that of the validation samples"
                + (f" in channel {worst}" if len(ratio) > 1 else "")
                + "; look for outliers, or for parts in other units"
            )
    return found

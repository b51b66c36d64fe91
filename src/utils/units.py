"""Kinds of data, and the map between the units of the model and those of the data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["points", "signals", "images", "fields", "volumes"]
BY_AXES: dict[int, Kind] = {0: "points", 1: "signals", 2: "fields", 3: "volumes"}


def kind_of(axes: int) -> Kind:
    """The kind of samples (C, *S) with this number of axes in S, for data that are not images."""
    if axes not in BY_AXES:
        raise ValueError(f"samples must have 0 to 3 axes besides the channels, got {axes}")
    return BY_AXES[axes]


@dataclass(frozen=True)
class Units:
    r"""The units of the data, in which files, plots and metrics are, and the affine map to those of the model.

    .. math:: x_\text{data} = \text{scale} \cdot x_\text{model} + \text{shift}

    Args:
        scale, shift: one number for all channels, or one for each.
        axes: number of axes in S of samples (C, *S).
        low, high: range of the values in the units of the data, as long as `scale`; None if it is unknown.
        strict: True if no other values are possible, as in images, so that all samples are clipped to the range.

    Raises:
        ValueError: if the numbers differ in length, a scale is not positive, or a range is empty.
    """

    scale: Sequence[float] = (1.0,)
    shift: Sequence[float] = (0.0,)
    axes: int = 0
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        if len(self.scale) != len(self.shift) or not all(0 < s < math.inf for s in self.scale):
            raise ValueError(f"units must have as many scales > 0 as shifts, got {self.scale} and {self.shift}")
        if not all(map(math.isfinite, self.shift)):
            raise ValueError(f"units must have finite shifts, got {self.shift}")
        if self.low is not None and self.high is not None:
            if not len(self.low) == len(self.high) == len(self.scale):
                raise ValueError(f"units must have as many ends of ranges as scales, got {self.low} and {self.high}")
            if not all(a < b for a, b in zip(self.low, self.high, strict=True)):
                raise ValueError(f"units must have low < high, got {self.low} and {self.high}")

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> "Units":
        """The units of a saved `as_dict`; ValueError for anything else."""
        try:
            values: dict[str, Any] = {k: v if isinstance(v, int | None) else tuple(v) for k, v in saved.items()}
            return cls(**values)
        except TypeError as error:  # such as of a text
            raise ValueError(f"units must have lists of numbers for scale and shift, got {dict(saved)}") from error

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, for configs, JSON and checkpoints."""
        return {name: [*value] if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def is_identity(self) -> bool:
        """True if the units of the model are those of the data."""
        return set(self.scale) == {1.0} and set(self.shift) == {0.0}

    def to_units(self, x: Tensor, clip: bool = True) -> Tensor:
        """Convert samples (..., C, *S) from the units of the model to those of the data."""
        if not self.is_identity:
            x = x * self._along(self.scale, x) + self._along(self.shift, x)
        if clip and self.strict and self.low and self.high:
            return x.clamp(min(self.low), max(self.high))
        return x

    def to_model(self, x: Tensor) -> Tensor:
        """Convert samples (..., C, *S) from the units of the data to those of the model."""
        return x if self.is_identity else (x - self._along(self.shift, x)) / self._along(self.scale, x)

    @property
    def clip_bound(self) -> list[list[float]] | None:
        """The range in the units of the model, [[low, ...], [high, ...]]; None if it is unknown."""
        if self.low is None or self.high is None:
            return None
        ends = (zip(end, self.shift, self.scale, strict=True) for end in (self.low, self.high))
        return [[(v - shift) / scale for v, shift, scale in end] for end in ends]

    def std_to_model(self, std: float) -> float:
        """Convert a standard deviation from the units of the data to those of the model.

        Noise has one in the model, hence in the data one for each channel, in proportion to its scale; the standard
        deviation in the units of the data is the root mean square of these.
        """
        return std / self.std_to_units(1.0)

    def std_to_units(self, std: float) -> float:
        """Convert a standard deviation from the units of the model to those of the data, see `std_to_model`."""
        return std * math.sqrt(math.fsum(s * s for s in self.scale) / len(self.scale))

    def log_volume(self, shape: Sequence[int]) -> float:
        """The logarithm of the volume in the units of the data that is one in those of the model, for samples (C, *S).

        A log-density in the units of the data is that in the units of the model minus this number.
        """
        return math.prod(shape) * math.fsum(map(math.log, self.scale)) / len(self.scale)

    def _along(self, values: Sequence[float], x: Tensor) -> Tensor | float:
        """The values along the channels of x."""
        if len(values) == 1:
            return values[0]
        return torch.tensor(values, dtype=x.dtype, device=x.device).view(-1, *[1] * self.axes)


IMAGES = Units((0.5,), (0.5,), 2, (0.0,), (1.0,), strict=True)  # in [0, 1]; in [-1, 1] in the model


def units_of(kind: Kind) -> Units:
    """The units of data whose class says no other: images are in [0, 1], all else is as in the model."""
    return IMAGES if kind == "images" else Units()

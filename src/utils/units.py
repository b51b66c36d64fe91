"""Kinds of data, and the conversion between the units of the model and those of the data."""

from typing import Literal

from torch import Tensor

Kind = Literal["points", "signals", "images", "fields", "volumes"]
BY_AXES: dict[int, Kind] = {0: "points", 1: "signals", 2: "fields", 3: "volumes"}


def kind_of(axes: int) -> Kind:
    """The kind of samples (C, *S) with this number of axes in S, for data that are not images."""
    if axes not in BY_AXES:
        raise ValueError(f"samples must have 0 to 3 axes besides the channels, got {axes}")
    return BY_AXES[axes]


def scale(kind: Kind) -> float:
    """One unit of the data in units of the model: the data of images are in [0, 1], the model's in [-1, 1]."""
    return 2.0 if kind == "images" else 1.0


def to_units(x: Tensor, kind: Kind, clip: bool = True) -> Tensor:
    """Convert samples from the units of the model to those of the data: images to [0, 1], others unchanged."""
    if kind != "images":
        return x
    return ((x + 1) / 2).clamp(0, 1) if clip else (x + 1) / 2


def to_model(x: Tensor, kind: Kind) -> Tensor:
    """Convert samples from the units of the data to those of the model: images to [-1, 1], others unchanged."""
    return 2 * x - 1 if kind == "images" else x

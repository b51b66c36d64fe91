"""Restoring what was measured: filling in, enlarging, colouring and sharpening with a model of the data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Protocol

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional as F

from src.diffusion.guidance import Guidance
from src.diffusion.operators import Blur, Downsample, Grayscale, LinearOperator, Mask
from src.samplers.ancestral import DDIM
from src.samplers.pipeline import Pipeline
from src.tasks.base import Inputs, Result, Task, wanted
from src.utils.errors import UserError, config_errors
from src.utils.ranges import Fraction, NonNegativeFloat, PositiveFloat
from src.utils.sample_files import read_samples
from src.utils.seeding import generator

Shape = tuple[int, ...]


class Method(Protocol):
    """Data from what was measured of them."""

    def __call__(
        self, pipeline: Pipeline, indices: range, measurement: LinearOperator, y: Tensor, noise: float
    ) -> Tensor:
        """The data of these indices, (len(indices), C, *S), for y of these indices."""


@dataclass
class Guided:
    """Sampling guided by the measurement.

    The probability-flow ODE from the middle of the noise, x_1 = 0, gives what is expected: of Gaussian data it is the
    posterior mean, and it errs less than a sample does. It is walked by DDIM, in the steps of the run's sampler.

    Args:
        guidance: makes one for a batch, of (measurement, y, noise); see :mod:`src.diffusion.posterior_guidance`.
        sample: draw a sample instead, from noise, as the run's sampler does.
    """

    guidance: Callable[[LinearOperator, Tensor, float], Guidance]
    sample: bool = False

    def __call__(
        self, pipeline: Pipeline, indices: range, measurement: LinearOperator, y: Tensor, noise: float
    ) -> Tensor:
        guidance = self.guidance(measurement, y, noise)
        if self.sample:
            return pipeline.sample_batch(indices, guidance=guidance)
        own = pipeline.sampler
        straight = replace(pipeline, sampler=DDIM(own.schedule, own.steps, own.time_grid, own.clip))
        return straight.sample_batch(
            indices, torch.zeros(len(indices), *pipeline.shape, device=pipeline.device), guidance=guidance
        )


@dataclass
class Restore(Task):
    r"""The data :math:`x_0` given :math:`y = A x_0 + s z`.

    Without an input the truth is measured. An input shaped as what is measured is y itself; one shaped as the data,
    where that is another shape, is measured too.

    Args:
        measurement: makes A, of the shape (C, *S) of a sample.
        method: makes the data of it.
        noise: s, in the units of the data: images in [0, 1]. It is added where the truth is measured.
    """

    measurement: Callable[[Shape], LinearOperator]
    method: Method
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.noise < 0:
            raise ValueError(f"noise is a standard deviation, at least 0, not {self.noise}")

    def __call__(self, pipeline: Pipeline, inputs: Inputs) -> Result:
        if len(pipeline.shape) < 2:
            raise UserError("this run is one of points; only images and signals can be restored")
        measurement, parts = self.measurement(pipeline.shape), []
        y = self.measured(pipeline, measurement, inputs)
        for indices in pipeline.batches(len(y)):
            some = y[indices.start : indices.stop].to(pipeline.device)
            parts.append(self.method(pipeline, indices, measurement, some, self.noise * pipeline.data_scale).cpu())
        return Result(torch.cat(parts), {"input": enlarged(y, pipeline.shape)}, inputs.truth, pipeline.cond)

    def measured(self, pipeline: Pipeline, measurement: LinearOperator, inputs: Inputs) -> Tensor:
        """y (N, ...): given, or measured."""
        shape = measurement(torch.zeros(1, *pipeline.shape)).shape[1:]
        if inputs.x is None:
            y = measurement(wanted(inputs.truth, pipeline))
            y = y + self.noise * pipeline.data_scale * torch.randn(
                y.shape, generator=generator(pipeline.seed, "noise measured")
            )
        elif inputs.x.shape[1:] == shape:
            y = inputs.x
        elif inputs.x.shape[1:] == pipeline.shape:
            y = measurement(inputs.x)
        else:
            given, small = (" x ".join(map(str, s)) for s in (inputs.x.shape[1:], shape))
            raise UserError(f"input has the shape {given}, but this task restores from {small} on this run; resize it")
        # What a mask hides, or a blur leaves nothing of, is not measured.
        return measurement(measurement.pinv(y))


def inpaint(
    method: Method, mask: str | None = None, box: Sequence[Fraction] | None = None, noise: NonNegativeFloat = 0.0
) -> Restore:
    """Fill in a missing part.

    Args:
        method: makes the data of what is known.
        mask: a file of the size of the data, white (or 1) where they are missing.
        box: what is missing instead, as fractions of the picture: [top, left, bottom, right], of signals [start, end];
            by default the right half.
        noise: of what is known.
    """
    return Restore(partial(hidden, mask, box), method, noise)


def super_resolution(method: Method, factor: Annotated[int, Ge(2)] = 4, noise: NonNegativeFloat = 0.0) -> Restore:
    """Enlarge by an integer factor, which must divide the size of the data."""
    return Restore(partial(shrunk, factor), method, noise)


def colourise(
    method: Method, weights: Sequence[float] = (0.299, 0.587, 0.114), noise: NonNegativeFloat = 0.0
) -> Restore:
    """Color grayscale images; `weights` are those of red, green and blue in gray."""
    return Restore(partial(greyed, weights), method, noise)


def deblur(method: Method, width: PositiveFloat = 1.5, noise: NonNegativeFloat = 0.0) -> Restore:
    """Sharpen an image blurred by a Gaussian of this standard deviation in pixels."""
    return Restore(partial(blurred, width), method, noise)


def hidden(mask: str | None, box: Sequence[float] | None, shape: Shape) -> Mask:
    """The mask of a file, or that of a box."""
    if mask is None:
        return Mask(1 - boxed(box, shape[1:]))
    if box is not None:
        raise UserError("task.mask and task.box both say what is missing; give one of them")
    x = read_samples(Path(mask), (3 if len(shape) == 3 else shape[0], *shape[1:]), "task.mask")
    missing = (x > (0 if len(shape) == 3 else 0.5)).any(1, keepdim=True)
    if missing.shape != (1, 1, *shape[1:]):
        there, here = (" x ".join(map(str, s)) for s in (missing.shape[2:], shape[1:]))
        raise UserError(
            f"task.mask={mask} holds {len(missing)} of {there}; one of {here}, the size of this run, is needed"
        )
    return Mask(1 - missing.float())


def boxed(box: Sequence[float] | None, size: Shape) -> Tensor:
    """1 in the box, 0 around it, (1, 1, *S)."""
    axes = len(size)
    box = [0.0] * (axes - 1) + [0.5] + [1.0] * axes if box is None else list(box)
    if len(box) != 2 * axes or not all(0 <= a < b <= 1 for a, b in zip(box[:axes], box[axes:], strict=True)):
        wanted = "[top, left, bottom, right]" if axes == 2 else "[start, end]"
        raise UserError(f"task.box={box} is not {wanted} as fractions from 0 to 1, each start before its end")
    inside = torch.ones(1, 1, *size)
    for axis, (a, b, n) in enumerate(zip(box[:axes], box[axes:], size, strict=True), 2):
        place = torch.arange(n).view(-1, *[1] * (axes + 1 - axis))
        inside = inside * ((round(a * n) <= place) & (place < round(b * n)))
    return inside


def shrunk(factor: int, shape: Shape) -> Downsample:
    if factor < 2 or any(n % factor for n in shape[1:]):
        size = " x ".join(map(str, shape[1:]))
        raise UserError(f"task.factor={factor} does not divide the size {size} of this run; use one that does, from 2")
    return Downsample(factor)


def greyed(weights: Sequence[float], shape: Shape) -> Grayscale:
    if shape[0] == 1 or shape[0] != len(weights):
        raise UserError(f"task=colourise wants a run of {len(weights)} channels, but this one has {shape[0]}")
    return Grayscale(weights)


def blurred(width: float, shape: Shape) -> Blur:
    with config_errors("task"):
        return Blur(width)


def enlarged(y: Tensor, shape: Shape) -> Tensor:
    """What was measured, as large as the data and with as many channels."""
    return F.interpolate(y, shape[1:], mode="nearest").expand(-1, *shape)

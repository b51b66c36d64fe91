"""Linear inverse problems on signals, images and volumes: inpainting, super-resolution, colorization and deblurring."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional as F

from src.diffusion.operators import Blur, Downsample, Grayscale, LinearOperator, Mask
from src.samplers.pipeline import Pipeline
from src.tasks.base import Result, Task, TaskInput, by_size, require_input
from src.tasks.inverse_solvers import InverseSolver
from src.utils.errors import UserError
from src.utils.ranges import Fraction, NonNegativeFloat, PositiveFloat
from src.utils.sample_files import read_samples
from src.utils.seeding import generator

Shape = tuple[int, ...]
BOXES = {1: "[start, end]", 2: "[top, left, bottom, right]", 3: "[front, top, left, back, bottom, right]"}


@dataclass
class InverseProblem(Task):
    r"""Estimate the data :math:`x_0` from a measurement :math:`y = A x_0 + s z`.

    Without an input, y is computed from the truth. An input of the shape of y is y itself; A is applied to one of the
    shape of the data, if the shapes differ.

    Args:
        operator: makes A from the shape (C, *S) of a sample.
        solver: estimates the data from y.
        noise_std: s, in the units of the data: images in [0, 1]. It is added if y is computed from the truth.
    """

    operator: Callable[[Shape], LinearOperator]
    solver: InverseSolver
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        if self.noise_std < 0:
            raise ValueError(f"task.noise_std must be >= 0, got {self.noise_std}")

    def check(self, pipeline: Pipeline, inputs: TaskInput) -> None:
        """Refuse an input that is no measurement of the model's samples."""
        self.measurement(pipeline, self.operator_for(pipeline), inputs)

    def operator_for(self, pipeline: Pipeline) -> LinearOperator:
        """A for the samples of a model."""
        if len(pipeline.shape) < 2:
            raise UserError(
                "inverse problems need a run trained on signals, images or volumes, got points; use another run"
            )
        return self.make_operator(pipeline.shape)

    def __call__(self, pipeline: Pipeline, inputs: TaskInput) -> Result:
        operator, batches = self.operator_for(pipeline), []
        y, noise_std = self.measurement(pipeline, operator, inputs), pipeline.std_to_model(self.noise_std)
        for indices in pipeline.batches(len(y)):
            batch = y[indices.start : indices.stop].to(pipeline.device)
            batches.append(self.solver(pipeline, indices, operator, batch, noise_std).cpu())
        return Result(torch.cat(batches), {"input": upsampled(y, pipeline.shape)}, inputs.truth, pipeline.cond)

    def make_operator(self, shape: Shape) -> LinearOperator:
        """Make A; an argument that does not fit is named as a setting of the task."""
        try:
            return self.operator(shape)
        except (ValueError, UserError) as error:
            raise UserError(f"task.{error}") from error

    def measurement(self, pipeline: Pipeline, operator: LinearOperator, inputs: TaskInput) -> Tensor:
        """The measurement y (N, ...): the input itself, or A applied to the input or the truth."""
        shape = operator(torch.zeros(1, *pipeline.shape)).shape[1:]
        if inputs.x is None:
            y = operator(require_input(inputs.truth, pipeline))
            noise = torch.randn(y.shape, generator=generator(pipeline.seed, "noise measured"))
            y = y + pipeline.std_to_model(self.noise_std) * noise
        elif inputs.x.shape[1:] == shape:
            y = inputs.x
        elif inputs.x.shape[1:] == pipeline.shape:
            y = operator(inputs.x)
        else:
            given, expected = by_size(inputs.x.shape[1:]), by_size(shape)
            raise UserError(f"input must have the shape {expected} for this task and run, got {given}; resize it")
        # Projects onto the range of A, which zeroes masked elements, for example.
        return operator(operator.pinv(y))


def inpaint(
    solver: InverseSolver, mask: str | None = None, box: Sequence[Fraction] | None = None,
    noise_std: NonNegativeFloat = 0.0,
) -> InverseProblem:  # fmt: skip
    """Fill in a missing part.

    Args:
        solver: estimates the data from the known part.
        mask: file of the size of the data, white (or 1) for missing elements.
        box: the missing part instead, as fractions: [start, end] of a signal, [top, left, bottom, right] of an image,
            [front, top, left, back, bottom, right] of a volume; by default the right half.
        noise_std: standard deviation of the noise in the known part.
    """
    return InverseProblem(partial(mask_from, mask, box), solver, noise_std)


def super_resolution(
    solver: InverseSolver, factor: Annotated[int, Ge(2)] = 4, noise_std: NonNegativeFloat = 0.0
) -> InverseProblem:
    """Enlarge by an integer factor, which must divide the size of the data."""
    return InverseProblem(partial(downsampling, factor), solver, noise_std)


def colorize(
    solver: InverseSolver, weights: Sequence[float] = (0.299, 0.587, 0.114), noise_std: NonNegativeFloat = 0.0
) -> InverseProblem:
    """Color grayscale images; `weights` are the weights of red, green and blue in gray."""
    return InverseProblem(partial(grayscale, weights), solver, noise_std)


def deblur(solver: InverseSolver, blur_std: PositiveFloat = 1.5, noise_std: NonNegativeFloat = 0.0) -> InverseProblem:
    """Sharpen images blurred by a Gaussian of standard deviation `blur_std`, in pixels."""
    return InverseProblem(partial(blur, blur_std), solver, noise_std)


# ---- operators for samples of a given shape, also those of condition=low_resolution and the like ----


def mask_from(mask: str | None, box: Sequence[Fraction] | None, shape: Shape) -> Mask:
    """Make the mask operator of a file or of a box, see `inpaint`; a ValueError names the argument that is wrong."""
    if mask is None:
        return Mask(1 - box_mask(box, shape[1:]))
    if box is not None:
        raise ValueError("mask and box exclude each other; give one of them")
    x = read_samples(Path(mask), (3 if len(shape) == 3 else shape[0], *shape[1:]), "mask")
    missing = (x > (0 if len(shape) == 3 else 0.5)).any(1, keepdim=True)
    if missing.shape != (1, 1, *shape[1:]):
        given, expected = by_size(missing.shape[2:]), by_size(shape[1:])
        raise ValueError(f"mask={mask} must hold one mask of {expected}, got {len(missing)} of {given}; resize it")
    return Mask(1 - missing.float())


def box_mask(box: Sequence[float] | None, size: Shape) -> Tensor:
    """Make a mask (1, 1, *S) that is 1 in the box and 0 outside."""
    axes = len(size)
    box = [0.0] * (axes - 1) + [0.5] + [1.0] * axes if box is None else list(box)
    if len(box) != 2 * axes or not all(0 <= a < b <= 1 for a, b in zip(box[:axes], box[axes:], strict=True)):
        expected = BOXES[axes]
        raise ValueError(f"box must be {expected} as fractions in [0, 1], each start before its end, got {box}")
    inside = torch.ones(1, 1, *size)
    for axis, (a, b, n) in enumerate(zip(box[:axes], box[axes:], size, strict=True), 2):
        place = torch.arange(n).view(-1, *[1] * (axes + 1 - axis))
        inside = inside * ((round(a * n) <= place) & (place < round(b * n)))
    return inside


def downsampling(factor: Annotated[int, Ge(2)], shape: Shape) -> Downsample:
    """Make the operator that averages blocks of factor x factor."""
    if factor < 2 or any(n % factor for n in shape[1:]):
        raise ValueError(f"factor must be >= 2 and divide the size {by_size(shape[1:])} of this run, got {factor}")
    return Downsample(factor)


def grayscale(weights: Sequence[float], shape: Shape) -> Grayscale:
    """Make the operator that computes a weighted sum of the channels."""
    if shape[0] == 1 or shape[0] != len(weights):
        raise ValueError(f"weights must be one for each of {shape[0]} channels, and of several, got {len(weights)}")
    return Grayscale(weights)


def blur(std: PositiveFloat, shape: Shape) -> Blur:
    """Make the Gaussian blur."""
    return Blur(std)


def upsampled(y: Tensor, shape: Shape) -> Tensor:
    """Resize a measurement to the shape of the data, by nearest neighbors."""
    return F.interpolate(y, shape[1:], mode="nearest").expand(-1, *shape)

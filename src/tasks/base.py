"""The interface of tasks: a task takes a pipeline and an input, and returns a result."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from src.diffusion.conditions import Cond, class_of
from src.samplers.pipeline import Pipeline
from src.utils.errors import UserError


class TaskInput(NamedTuple):
    """The input of a task, in the units of the model.

    x: (N, C, *S'), the samples to work on; None if the task makes them from the truth.
    truth: (N, C, *S), the reference that the result is compared with; None if it is unknown.
    """

    x: Tensor | None = None
    truth: Tensor | None = None

    @property
    def n(self) -> int:
        """The number N of samples."""
        given = self.truth if self.x is None else self.x
        return 0 if given is None else len(given)


class Result(NamedTuple):
    """The output of a task, in the units of the model, on the CPU.

    x: (N, C, *S).
    comparison: samples of the shape of x, shown before it, by title; empty for no comparison.
    truth: the reference, of the shape of x; None if unknown.
    cond: (N, ...), the requested conditions, of several a dict by name; None for none.
    trajectory: (steps + 1, k, C, *S), the states of the first k samples, or None.
    grid_columns: columns of the sample grid, if a column or row has a meaning.
    info: further lines of the summary, by name.
    """

    x: Tensor
    comparison: dict[str, Tensor] = {}  # noqa: RUF012 - never changed
    truth: Tensor | None = None
    cond: Cond | None = None
    trajectory: Tensor | None = None
    grid_columns: int | None = None
    info: dict[str, str] = {}  # noqa: RUF012

    @property
    def label(self) -> Tensor | None:
        """The requested labels (N,), None if there are none."""
        return class_of(self.cond)


class Task(ABC):
    """A use of a trained model; a subclass defines `__call__`.

    Attributes:
        makes_samples: True if it draws n new samples, of all classes in turn, and takes no input.
    """

    makes_samples = False

    @abstractmethod
    def __call__(self, pipeline: Pipeline, inputs: TaskInput) -> Result:
        """Run the task.

        Raises:
            UserError: if the input does not fit the model.
        """

    def check(self, pipeline: Pipeline, inputs: TaskInput) -> None:
        """Refuse an input that does not fit the model, before any work.

        Raises:
            UserError: naming the reason.
        """
        require_input(inputs.truth if inputs.x is None else inputs.x, pipeline)

    def save(self, pipeline: Pipeline, result: Result, folder: Path) -> list[str]:
        """Write the files specific to this task, and return their names."""
        return []


def require_input(x: Tensor | None, pipeline: Pipeline, key: str = "input") -> Tensor:
    """Return x after checking that it is given and has the shape of the model's samples.

    Raises:
        UserError: if x is None or has another shape.
    """
    if x is None:
        raise UserError(f"{key}=FILE is needed: an image, a folder of them, a .npy or .npz file, or test")
    return check_shape(x, pipeline.shape, key)


def check_shape(x: Tensor, shape: Iterable[int], key: str = "input") -> Tensor:
    """Return samples (N, C, *S) after checking their shape.

    Raises:
        UserError: if their shape is not (C, *S).
    """
    shape = tuple(shape)
    if x.shape[1:] == shape:
        return x
    if x.ndim == 1 + len(shape) and x.shape[1] != shape[0]:
        raise UserError(
            f"{key} must have {shape[0]} channel(s), as this run was trained on, got {x.shape[1]}; convert it first"
        )
    given, trained = (by_size(s) for s in (x.shape[1:], shape))
    raise UserError(f"{key} must have the shape {trained}, as this run was trained on, got {given}; resize it first")


def by_size(shape: Iterable[int]) -> str:
    """Format a shape, such as 3 x 32 x 32."""
    return " x ".join(map(str, shape))

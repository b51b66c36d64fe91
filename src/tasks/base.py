"""What a trained denoiser is put to: a task takes a model, and what it is given, and says what came out."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from src.samplers.pipeline import Pipeline
from src.utils.errors import UserError


class Inputs(NamedTuple):
    """What a task is given, in the [-1, 1] of the model.

    x: (N, C, *S'), what is to be worked on; None where a task is to make it from the truth.
    truth: (N, C, *S), what the result is compared with; None where it is not known.
    """

    x: Tensor | None = None
    truth: Tensor | None = None

    @property
    def n(self) -> int:
        """N."""
        given = self.truth if self.x is None else self.x
        return 0 if given is None else len(given)


class Result(NamedTuple):
    """What came out, on the CPU.

    x: (N, C, *S), in the [-1, 1] of the model.
    shown: what stands before it in the comparison, by its title, each shaped as x; nothing for no comparison.
    truth: shaped as x, where it is known.
    label: (N,) the labels that were asked for.
    trajectory: (steps + 1, k, C, *S), the first k samples on their way, where asked for.
    columns: of the grid, where they mean something.
    facts: what else to say, by name.
    """

    x: Tensor
    shown: dict[str, Tensor] = {}  # noqa: RUF012 - never changed
    truth: Tensor | None = None
    label: Tensor | None = None
    trajectory: Tensor | None = None
    columns: int | None = None
    facts: dict[str, str] = {}  # noqa: RUF012


class Task(ABC):
    """A new one is one method, the call.

    Attributes:
        makes_samples: whether it makes n new samples, of all classes in turn, rather than being given some.
    """

    makes_samples = False

    @abstractmethod
    def __call__(self, pipeline: Pipeline, inputs: Inputs) -> Result:
        """Do it.

        Raises:
            UserError: where the inputs do not fit the model.
        """

    def save(self, pipeline: Pipeline, result: Result, folder: Path) -> list[str]:
        """Write what only this task writes; returns the names of it."""
        return []


def wanted(x: Tensor | None, pipeline: Pipeline, what: str = "input") -> Tensor:
    """The samples that a task cannot do without, shaped as the model's.

    Raises:
        UserError: where there are none, or they have another shape.
    """
    if x is None:
        raise UserError(f"{what}=FILE is needed: an image, a folder of them, a .npy or .npz file, or test")
    return check_shape(x, pipeline.shape, what)


def check_shape(x: Tensor, shape: Iterable[int], what: str = "input") -> Tensor:
    """Refuse samples (N, C, *S) of another shape than the model's."""
    shape = tuple(shape)
    if x.shape[1:] == shape:
        return x
    if x.ndim == 1 + len(shape) and x.shape[1] != shape[0]:
        raise UserError(f"{what} has {x.shape[1]} channel(s), but this run was trained on {shape[0]}")
    there, here = (" x ".join(map(str, s)) for s in (x.shape[1:], shape))
    raise UserError(f"{what} has the shape {there}, but this run was trained on {here}; resize it first")

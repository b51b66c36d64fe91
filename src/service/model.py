"""What the service needs of a model, and what a request asks of it."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np

from src.diffusion.conditions import Cond
from src.samplers.pipeline import Pipeline
from src.service.conditions import Choices

Settings = dict[str, Any]
SAMPLES = "samples"  # the kind of a job that draws new samples; other kinds are the names of tasks


class GivenArrays(NamedTuple):
    """The arrays that a task works on.

    x: (N, C, *S), in the units of the data: images in [0, 1].
    mask: (*S), nonzero where a sample is to be filled in; None for the default of the task.
    """

    x: np.ndarray
    mask: np.ndarray | None = None


class Restored(NamedTuple):
    """The result of a task, in the units of the data.

    x: (N, C, *S).
    given: what it was made from, of the same shape, or None.
    info: lines about it, by name.
    """

    x: np.ndarray
    given: np.ndarray | None
    info: dict[str, str]


class ServiceModel(Protocol):
    """A model that is served."""

    pipeline: Pipeline
    digest: str  # of the weights
    samplers: list[str]
    solvers: list[str]
    tasks: dict[str, dict[str, Any]]  # the settings of each task, with their defaults

    @property
    def conditions(self) -> Choices:
        """The conditions that a request may name."""

    def sampling(self, settings: Settings) -> Pipeline:
        """The pipeline with the sampler and the guidance of a request.

        Raises:
            UserError: if they do not fit the model.
        """

    def condition(
        self, settings: Settings, n: int, every: bool = True, images: Mapping[str, np.ndarray] = MappingProxyType({})
    ) -> Cond | None:
        """The conditions of n samples.

        Args:
            settings: of the request.
            n: the number of samples.
            every: without a condition in the settings, True draws those of new samples, and False returns None.
            images: those among the conditions, (m, C, *S) by name, as `read_image` gives them.

        Raises:
            UserError: for a condition that the model does not know.
        """

    def read_image(self, name: str, read: Callable[[tuple[int, ...], bool], np.ndarray]) -> np.ndarray:
        """The images (m, C, *S) of a condition.

        Args:
            name: of the condition.
            read: the images of a request, given their shape (C, *S), and True if pictures have it.

        Raises:
            UserError: if they have another shape.
        """

    def check_task(self, name: str, settings: Settings, given: GivenArrays) -> None:
        """Refuse what the task cannot do, before the request is accepted.

        Raises:
            UserError: naming the reason.
        """

    def do_task(self, name: str, settings: Settings, given: GivenArrays, on_step: Callable[[int], None]) -> Restored:
        """Do a task; on_step is called after every step with the number of samples that made it."""

    @property
    def card(self) -> dict[str, Any]:
        """The facts of the run."""

    def curves(self) -> dict[str, list[list[float]]]:
        """The losses of the training: (step, value) by name."""

    def command(self, kind: str, settings: Settings) -> str:
        """The command line of src.sample that gives the same samples."""

"""The base class of formats, and the model that they write."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor
from torch.utils._pytree import tree_map

from src.runs.run import Run
from src.samplers.pipeline import Pipeline
from src.utils.imports import need

VERIFIED = 4  # samples that are drawn again from what was written


@dataclass
class Model:
    """A trained model that is exported.

    Attributes:
        pipeline: the model, its sampler and its guidance.
        run: the run folder.
        config: the config of the run as plain containers, with the sampler and the guidance of the pipeline.
        made_from: the files that the model is read from and their digests, for the record.
        n: number of samples that are drawn for the picture and for the verification.
    """

    pipeline: Pipeline
    run: Run
    config: dict[str, Any]
    made_from: dict[str, Any]
    n: int = 16

    @cached_property
    def samples(self) -> Tensor:
        """Samples of the pipeline, (n, C, *S) in the units of the model, on the CPU."""
        return self.pipeline.sample(self.n)

    @property
    def verified(self) -> Tensor:
        """Those that are drawn again."""
        return self.samples[:VERIFIED]

    def cond(self, device: torch.device | str = "cpu") -> Any:
        """The conditions of those that are drawn again: None, a tensor, or a dict of them."""
        cond = self.pipeline.conditions(range(self.n))
        return None if cond is None else tree_map(lambda value: value[:VERIFIED].to(device), cond)

    def probe(self) -> tuple[Tensor, Tensor, Any]:
        """Noisy data (k, C, *S), their times (k,) and their conditions, at which predictions are compared."""
        pipeline = self.pipeline
        times = torch.tensor([0.05, 0.35, 0.65, 0.95], dtype=torch.float64)[: self.n]
        x, noise = torch.randn(2, len(times), *pipeline.shape, generator=torch.Generator().manual_seed(0))
        x_t = pipeline.denoiser.schedule.add_noise(x.clamp(-1, 1), times, noise)
        return x_t.to(pipeline.device), times, self.cond(pipeline.device)


class Format(ABC):
    """A way to write a model for use elsewhere. A new one implements `write` and `verify`.

    Args:
        tolerance: the largest difference to the run, in the units of the model, that is accepted.

    Attributes:
        name: the choice of `format=`.
        libraries: the names by which the needed libraries are imported.
        extra: the extra of this project that has them.
        tags: what the model card lists.
    """

    name: ClassVar[str]
    libraries: ClassVar[Sequence[str]] = ()
    extra: ClassVar[str] = "export"
    tags: ClassVar[Sequence[str]] = ()

    def __init__(self, tolerance: Annotated[float, Ge(0)] = 1e-3):
        self.tolerance = tolerance

    def check_libraries(self) -> None:
        """Refuse to go on without the needed libraries.

        Raises:
            UserError: saying what to install.
        """
        for library in self.libraries:
            need(library, f"for format={self.name}", self.extra)

    def check(self, model: Model) -> None:  # noqa: B027 - most take any
        """Refuse a model that this format cannot hold, before any work.

        Raises:
            UserError: naming the part and the reason.
        """

    @abstractmethod
    def write(self, model: Model, folder: Path) -> None:
        """Write the model to a new, empty folder."""

    @abstractmethod
    def verify(self, model: Model, folder: Path) -> Mapping[str, float]:
        """Open what was written, and return the largest difference to the run of each thing that was compared."""

    @abstractmethod
    def usage(self, model: Model) -> str:
        """How to use the folder, in Markdown, for the model card."""


def largest_difference(x: Tensor, y: Tensor) -> float:
    """The largest difference of two tensors."""
    return (x.double().cpu() - y.double().cpu()).abs().max().item()

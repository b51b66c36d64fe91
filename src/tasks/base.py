"""What a trained denoiser is put to: a task takes a model, and what it is given, and says what came out."""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from src.diffusion.denoiser import Denoiser, Prediction
from src.diffusion.guidance import Denoise, Guidance, NoGuidance
from src.samplers.base import Sampler, SeededNoise, State
from src.utils import units
from src.utils.errors import UserError
from src.utils.units import Kind, kind_of


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


class Cost:
    """What a task took: rows that networks evaluated, and seconds."""

    def __init__(self) -> None:
        self.rows, self.seconds = 0, 0.0

    def add(self, net: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        """A forward hook."""
        self.rows += len(args[0])


class Conditioned:
    """A denoiser for the length of one trajectory: it is shown its last estimate, where it wants one."""

    def __init__(self, denoiser: Denoiser):
        self.denoiser = denoiser
        self.estimate: Tensor | None = None

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        if not self.denoiser.self_conditioning:
            return self.denoiser(x_t, t, cond)
        if self.estimate is None:
            self.estimate = torch.zeros_like(x_t)
        elif len(self.estimate) != len(x_t):  # guidance began to double the batch, or ceased to
            self.estimate = torch.cat([self.estimate, self.estimate])[: len(x_t)]
        prediction = self.denoiser(x_t, t, cond, self.estimate)
        self.estimate = prediction.x_0.detach()
        return prediction


@dataclass
class Model:
    """A trained denoiser, and how to sample from it.

    Args:
        denoiser: predicts the data; used as it is, on its own device.
        sampler: walks from noise to data.
        shape: (C, *S) of one sample.
        guidance: wraps the denoiser.
        label: (N,) int64 of all samples, -1 for none; None for an unconditional network.
        cluster: the same of new samples, for a network that is told of clusters.
        seed: of the noise; that of sample i is a function of (seed, i), whatever N and the batch size.
        batch_size: samples walked at a time.
        classes: the names of the labels, where they are known.
        kind: of the data; images where the shape has two axes, unless it says otherwise.
        on_step: called with the number of samples that took a step, for progress bars.
    """

    denoiser: Denoiser
    sampler: Sampler
    shape: tuple[int, ...]
    guidance: Guidance = field(default_factory=NoGuidance)
    label: Tensor | None = None
    cluster: Tensor | None = None
    seed: int = 0
    batch_size: int = 256
    classes: list[str] = field(default_factory=list)
    kind: Kind | None = None
    on_step: Callable[[int], None] | None = None

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def __post_init__(self) -> None:
        self.kind = self.kind or ("images" if len(self.shape) == 3 else kind_of(len(self.shape) - 1))

    @property
    def unit(self) -> float:
        """One unit of the data in units of the model."""
        assert self.kind is not None
        return units.scale(self.kind)

    def batches(self, n: int) -> Iterator[range]:
        """The rows of each batch."""
        for first in range(0, n, self.batch_size):
            yield range(first, min(first + self.batch_size, n))

    def noise(self, rows: range, purpose: str = "") -> SeededNoise:
        """The noise of these samples; that of another purpose is independent of it."""
        return SeededNoise([f"{self.seed}{purpose}/{i}" for i in rows], self.device)

    def denoise(self, rows: range, guidance: Guidance | None = None) -> Callable[[Tensor, Tensor], Prediction]:
        """Predicts these samples from (x_t, t), for one trajectory; `guidance` comes on top of the model's own."""
        told = self.label if self.cluster is None else self.cluster
        cond = None if told is None else told[rows.start : rows.stop : rows.step].to(self.device)
        denoise = self.guidance(Conditioned(self.denoiser), self.sampler.schedule)
        if guidance is not None:
            denoise = guidance(denoise, self.sampler.schedule)
        return partial(call_with_label, denoise, cond)

    def trajectory(
        self, rows: range, x_t: Tensor | None = None, start: float = 1.0, guidance: Guidance | None = None
    ) -> Iterator[State]:
        """The states of these samples, from x_t at time `start`, or from pure noise, to data."""
        noise = self.noise(rows)
        if x_t is None:
            x_t = self.sampler.prior(noise, torch.empty(len(rows), *self.shape, device=self.device))
        for state in self.sampler.trajectory(self.denoise(rows, guidance), x_t, noise, start):
            if self.on_step is not None and state.x_0 is not None:
                self.on_step(len(rows))
            yield state

    def walk(
        self, rows: range, x_t: Tensor | None = None, start: float = 1.0, guidance: Guidance | None = None
    ) -> Tensor:
        """The end of that trajectory, (len(rows), C, *S)."""
        (end,) = deque(self.trajectory(rows, x_t, start, guidance), maxlen=1)
        return end.x_t

    @contextmanager
    def measured(self) -> Iterator[Cost]:
        """Evaluation mode without gradients, in which what the networks do is counted."""
        nets = {d.net for d in (self.denoiser, *guides(self.guidance))}  # a guide may be the denoiser itself
        was_training = self.denoiser.training
        self.denoiser.eval()
        cost, began = Cost(), time.perf_counter()
        hooks = [net.register_forward_hook(cost.add) for net in nets]
        try:
            with torch.no_grad():
                yield cost
        finally:
            for hook in hooks:
                hook.remove()
            self.denoiser.train(was_training)
            cost.seconds = time.perf_counter() - began


class Task(ABC):
    """A new one is one method, the call.

    Attributes:
        makes_samples: whether it makes n new samples, of all classes in turn, rather than being given some.
    """

    makes_samples = False

    @abstractmethod
    def __call__(self, model: Model, inputs: Inputs) -> Result:
        """Do it.

        Raises:
            UserError: where the inputs do not fit the model.
        """

    def save(self, model: Model, result: Result, folder: Path) -> list[str]:
        """Write what only this task writes; returns the names of it."""
        return []


def guides(guidance: object) -> list[Denoiser]:
    """The denoisers that a guidance, or one inside it, brings along."""
    found: dict[int, object] = {}
    todo: list[Any] = [guidance]
    while todo:
        part = todo.pop()
        # A classifier of the user's may hold anything, itself included.
        if id(part) not in found:
            found[id(part)] = part
            todo += [] if isinstance(part, nn.Module) else getattr(part, "__dict__", {}).values()
    return [part for part in found.values() if isinstance(part, Denoiser)]


def call_with_label(denoise: Denoise, cond: Tensor | None, x_t: Tensor, t: Tensor) -> Prediction:
    return denoise(x_t, t, cond)


def wanted(x: Tensor | None, model: Model, what: str = "input") -> Tensor:
    """The samples that a task cannot do without, shaped as the model's.

    Raises:
        UserError: where there are none, or they have another shape.
    """
    if x is None:
        raise UserError(f"{what}=FILE is needed: an image, a folder of them, a .npy or .npz file, or test")
    return check_shape(x, model.shape, what)


def check_shape(x: Tensor, shape: Iterable[int], what: str = "input") -> Tensor:
    """Refuse samples (N, C, *S) of another shape than the model's."""
    shape = tuple(shape)
    if x.shape[1:] == shape:
        return x
    if x.ndim == 1 + len(shape) and x.shape[1] != shape[0]:
        raise UserError(f"{what} has {x.shape[1]} channel(s), but this run was trained on {shape[0]}")
    there, here = (" x ".join(map(str, s)) for s in (x.shape[1:], shape))
    raise UserError(f"{what} has the shape {there}, but this run was trained on {here}; resize it first")

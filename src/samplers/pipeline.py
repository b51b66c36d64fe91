"""Draw samples from a trained denoiser."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from src.diffusion.denoiser import Denoiser, Prediction
from src.diffusion.guidance import Denoise, Guidance, NoGuidance
from src.samplers.base import Sampler, SeededNoise, State
from src.utils import units
from src.utils.units import Kind, kind_of


class Cost:
    """What a task took: rows that networks evaluated, and seconds."""

    def __init__(self) -> None:
        self.rows, self.seconds = 0, 0.0

    def add(self, net: nn.Module, args: tuple[Any, ...], output: Any) -> None:
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


class Samples(NamedTuple):
    """What was drawn.

    x: (N, C, *S), in the [-1, 1] of the model, on the CPU.
    nfe: evaluations of the network for each sample.
    seconds: time it took.
    trajectory: (steps + 1, k, C, *S), the first k samples on their way, where asked for; else None.
    """

    x: Tensor
    nfe: float
    seconds: float
    trajectory: Tensor | None = None


def draw(model: Model, n: int, keep: int = 0) -> tuple[Tensor, Tensor | None]:
    """n samples (n, C, *S), and the trajectories of the first few."""
    batches: list[Tensor] = []
    paths: list[Tensor] = []
    for rows in model.batches(n):
        path: list[Tensor] = []
        for state in model.trajectory(rows):
            x = state.x_t
            if rows.start < keep:
                path.append(x[: keep - rows.start].cpu())
        batches.append(x.cpu())
        paths += [torch.stack(path)] if path else []
    return torch.cat(batches), torch.cat(paths, 1) if paths else None


def generate(
    denoiser: Denoiser,
    sampler: Sampler,
    n: int,
    shape: tuple[int, ...],
    seed: int = 0,
    label: Tensor | None = None,
    guidance: Guidance | None = None,
    batch_size: int = 256,
    keep: int = 0,
    on_step: Callable[[int], None] | None = None,
) -> Samples:
    """Draw n samples; sample i is a function of (seed, i), whatever n and the batch size. See `Model`.

    Raises:
        ValueError: where n or the batch size is less than 1, or there are not as many labels as samples.
    """
    if n < 1 or batch_size < 1:
        raise ValueError(f"n and batch_size are at least 1, not {n} and {batch_size}")
    if label is not None and len(label) != n:
        raise ValueError(f"{len(label)} labels for {n} samples; one a sample is needed")
    cluster = denoiser.draw_clusters(n, seed)
    model = Model(denoiser, sampler, shape, guidance or NoGuidance(), label, cluster, seed, batch_size, on_step=on_step)
    with model.measured() as cost:
        x, trajectory = draw(model, n, keep)
    return Samples(x, cost.rows / n, cost.seconds, trajectory)

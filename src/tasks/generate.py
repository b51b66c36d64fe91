"""Draw samples from a trained denoiser."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from src.diffusion.denoiser import Denoiser, Prediction
from src.diffusion.guidance import Denoise, Guidance, NoGuidance
from src.samplers.base import Sampler, SeededNoise


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
        self.estimate = prediction.x_0
        return prediction


@contextmanager
def counted_rows(denoisers: Iterable[Denoiser]) -> Iterator[list[int]]:
    """Count how many rows their networks evaluate."""
    rows: list[int] = []
    nets = {d.net for d in denoisers}  # a guide may be the denoiser itself
    hooks = [net.register_forward_hook(lambda net, args, output: rows.append(len(args[0]))) for net in nets]
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()


def guides(guidance: object) -> list[Denoiser]:
    """The denoisers that a guidance, or one inside it, brings along."""
    found: dict[int, object] = {}
    todo = [guidance]
    while todo:
        part = todo.pop()
        # A classifier of the user's may hold anything, itself included.
        if id(part) not in found:
            found[id(part)] = part
            todo += [] if isinstance(part, nn.Module) else getattr(part, "__dict__", {}).values()
    return [part for part in found.values() if isinstance(part, Denoiser)]


def call_with_label(denoise: Denoise, cond: Tensor | None, x_t: Tensor, t: Tensor) -> Prediction:
    return denoise(x_t, t, cond)


@torch.no_grad()
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
    """Draw n samples; sample i is a function of (seed, i), whatever n and the batch size.

    Args:
        denoiser: predicts the data; used as it is, on its own device, in evaluation mode.
        sampler: walks from noise to data.
        n: how many.
        shape: (C, *S) of one sample.
        seed: of the noise.
        label: (n,) int64, -1 for none; None for an unconditional network.
        guidance: wraps the denoiser.
        batch_size: samples drawn at a time.
        keep: of how many samples to keep the trajectory.
        on_step: called with the number of samples that took a step, for progress bars.

    Raises:
        ValueError: where n or the batch size is less than 1, or there are not as many labels as samples.
    """
    if n < 1 or batch_size < 1:
        raise ValueError(f"n and batch_size are at least 1, not {n} and {batch_size}")
    if label is not None and len(label) != n:
        raise ValueError(f"{len(label)} labels for {n} samples; one a sample is needed")
    device = next(denoiser.parameters()).device
    was_training = denoiser.training
    denoiser.eval()
    guidance = guidance or NoGuidance()
    began = time.perf_counter()
    batches: list[Tensor] = []
    paths: list[Tensor] = []
    with counted_rows([denoiser, *guides(guidance)]) as evaluated:
        for first in range(0, n, batch_size):
            rows = range(first, min(first + batch_size, n))
            cond = None if label is None else label[rows.start : rows.stop].to(device)
            noise = SeededNoise([f"{seed}/{i}" for i in rows], device)
            x = torch.empty(len(rows), *shape, device=device)
            denoise = partial(call_with_label, guidance(Conditioned(denoiser), sampler.schedule), cond)
            path: list[Tensor] = []
            for state in sampler.trajectory(denoise, sampler.prior(noise, x), noise):
                x = state.x_t
                if first < keep:
                    path.append(x[: keep - first].cpu())
                if on_step is not None and state.x_0 is not None:
                    on_step(len(rows))
            batches.append(x.cpu())
            paths += [torch.stack(path)] if path else []
    denoiser.train(was_training)
    seconds = time.perf_counter() - began
    return Samples(torch.cat(batches), sum(evaluated) / n, seconds, torch.cat(paths, 1) if paths else None)

"""Draw samples from a trained denoiser."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from src.diffusion.denoiser import Denoiser
from src.diffusion.guidance import Guidance, NoGuidance
from src.samplers.base import Sampler
from src.tasks.base import Inputs, Model, Result, Task
from src.utils.ranges import NonNegativeInt


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


@dataclass
class Generate(Task):
    """New samples from noise.

    Args:
        n: how many.
        keep: of how many to keep the trajectory.
    """

    n: int = 64
    keep: NonNegativeInt = 0
    makes_samples = True

    def __call__(self, model: Model, inputs: Inputs) -> Result:
        x, trajectory = draw(model, self.n, self.keep)
        return Result(x, trajectory=trajectory, label=model.label)


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

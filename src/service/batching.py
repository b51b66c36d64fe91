"""Samples of several requests, drawn together."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from src.diffusion.conditions import Cond, map_cond
from src.samplers.base import SeededNoise, State
from src.samplers.pipeline import Pipeline


@dataclass
class JointPipeline(Pipeline):
    """A pipeline whose samples are of several seeds.

    Args:
        draws: (seed, index) of each sample of the batch.
    """

    draws: list[tuple[int, int]] = field(default_factory=list)

    def noise(self, indices: range, purpose: str = "") -> SeededNoise:
        return SeededNoise([f"{seed}{purpose}/{i}" for seed, i in (self.draws[j] for j in indices)], self.device)


def draw_together(
    pipeline: Pipeline, draws: list[tuple[int, int]], cond: Cond | None, size: int
) -> Iterator[State]:  # fmt: skip
    """Yield the states (size, C, *S) of a batch, of which the first are those of `draws`.

    The batch always has the same size, since the last bits of what a network computes of a sample depend on the size of
    its batch, though not on the other samples in it.

    Args:
        pipeline: with the sampler and the guidance of all of them.
        draws: (seed, i) of at most `size` samples: sample i of a seed.
        cond: their conditions.
        size: of the batch.
    """
    more = size - len(draws)
    cond = map_cond(lambda x: torch.cat([x, x[-1:].expand(more, *x.shape[1:])]), cond)
    settings: dict[str, Any] = {f.name: getattr(pipeline, f.name) for f in fields(Pipeline)}
    own = settings | {"cond": cond, "batch_size": size, "draws": draws + [draws[-1]] * more}
    return JointPipeline(**own).trajectory(range(size))

"""The one loop that all samplers share, and where their randomness comes from."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from src.diffusion.schedules import Schedule
from src.utils.seeding import generator

Denoise = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[Tensor], Tensor]


class State(NamedTuple):
    """A point of a trajectory: the time, the sample there, and the prediction of the data that led to it."""

    t: Tensor
    x_t: Tensor
    x_0: Tensor | None


class Sampler(ABC):
    """Walks from noise to data along a grid of times. A new one is one method, `step`.

    Args:
        schedule: the forward process.
        steps: number of steps.
        clip: bound on the absolute value of every predicted x_0; None for none.
    """

    def __init__(self, schedule: Schedule, steps: int = 50, clip: float | None = None):
        if steps < 1:
            raise ValueError(f"sampler.steps is at least 1, not {steps}")
        if clip is not None and clip <= 0:
            raise ValueError(f"sampler.clip is above 0, or null for none, not {clip}")
        self.schedule = schedule
        self.steps = steps
        self.clip = clip

    @abstractmethod
    def step(self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        """x_s from x_t, for s < t.

        Args:
            denoise: predicts x_0 from (x_t, t); any callable.
            x_t: (B, C, *S).
            t, s: 0-dimensional float64 times on the CPU.
            noise: draws standard normal noise shaped as its argument. It is a function rather than a generator so that
                each sample can have a stream of its own, and tests can share noise with another implementation.
        """

    def grid(self, start: float = 1.0) -> Tensor:
        """The steps + 1 times from `start` down to 0, float64."""
        return torch.linspace(start, 0, self.steps + 1, dtype=torch.float64)

    def trajectory(self, denoise: Denoise, x_t: Tensor, noise: Noise, start: float = 1.0) -> Iterator[State]:
        """Yield `x_t` at time `start`, then the state after every step."""
        last: Tensor | None = None

        def clipped(x_t: Tensor, t: Tensor) -> Tensor:
            nonlocal last
            last = denoise(x_t, t)
            if self.clip is not None:
                last = last.clamp(-self.clip, self.clip)
            return last

        grid = self.grid(start)
        yield State(grid[0], x_t, None)
        for t, s in pairwise(grid):
            x_t = self.step(clipped, x_t, t, s, noise)
            yield State(s, x_t, last)

    def sample(self, denoise: Denoise, noise: Noise, like: Tensor) -> Tensor:
        """Draw samples shaped as `like`, from pure noise."""
        (end,) = deque(self.trajectory(denoise, self.prior(noise, like), noise), maxlen=1)
        return end.x_t

    def prior(self, noise: Noise, like: Tensor) -> Tensor:
        r"""Pure noise :math:`\sigma_1 z`, shaped as `like`."""
        _, sigma = self.schedule.alpha_sigma(torch.tensor(1.0, dtype=torch.float64))
        return sigma * noise(like)


class SeededNoise:
    """Noise in which sample i depends on its own seed alone, not on its place in the batch or the batch's size.

    Args:
        seeds: one seed a sample, of whatever can be written as text.
        device: where to draw.
    """

    def __init__(self, seeds: Sequence[int | str], device: torch.device | str = "cpu"):
        self.generators = [generator("sample", seed, device=device) for seed in seeds]

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) != len(self.generators):
            raise ValueError(
                f"{len(self.generators)} seeds cannot give noise for a batch of {len(x)}; one seed a sample"
            )
        return torch.stack(
            [torch.randn(x.shape[1:], generator=g, device=x.device, dtype=x.dtype) for g in self.generators]
        )

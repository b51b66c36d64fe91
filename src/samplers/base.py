"""The one loop that all samplers share, and where their randomness comes from."""

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor

from src.diffusion.denoiser import Prediction
from src.diffusion.schedules import Schedule
from src.samplers.clipping import NoClip
from src.samplers.time_grids import TimeGrid, uniform_time_grid
from src.utils.seeding import generator

Noise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class NoiseLevel:
    """A noise level. Coefficients are Python floats, so float64 whatever the samples are, and cost nothing.

    Attributes:
        t: its time, 0-dimensional float64 on the CPU.
        alpha, sigma: signal and noise there.
    """

    t: Tensor
    alpha: float
    sigma: float

    @property
    def half_log_snr(self) -> float:
        r""":math:`\log(\alpha / \sigma)`, infinite where one of them is 0."""
        if self.sigma == 0:
            return math.inf
        return math.log(self.alpha / self.sigma) if self.alpha > 0 else -math.inf

    def eps(self, x_t: Tensor, x_0: Tensor) -> Tensor:
        """The noise in x_t, if its data is x_0."""
        return (x_t - self.alpha * x_0) / self.sigma


class State(NamedTuple):
    """A point of a trajectory: the time, the sample there, and the prediction of the data that led to it."""

    t: Tensor
    x_t: Tensor
    x_0: Tensor | None


class DenoiserMemory:
    """What a step calls to predict x_0; it clips, and remembers for as long as one trajectory lasts.

    Attributes:
        history: (level, x_0) of the evaluations that can be extrapolated from, the newest last.
        last: the newest prediction, unclipped.
        memory: what else a method carries from step to step, under names of its own.
        steps_left: steps to the end of the walk, the present one among them.
    """

    def __init__(self, predict: Callable[[Tensor, Tensor], Tensor | Prediction], clip: Callable[[Tensor], Tensor]):
        self.predict, self.clip = predict, clip
        self.history: deque[tuple[NoiseLevel, Tensor]] = deque(maxlen=4)
        self.last: Prediction | None = None
        self.x_0: Tensor | None = None
        self.memory: dict[str, Any] = {}
        self.steps_left = 0

    def __call__(self, x_t: Tensor, level: NoiseLevel) -> Tensor:
        said = self.predict(x_t, level.t)
        self.last = said if isinstance(said, Prediction) else Prediction(said)
        self.x_0 = self.clip(self.last.x_0)
        # At a level without signal x_0 is a guess at infinite distance, from which nothing can be extrapolated.
        if level.alpha > 0:
            self.history.append((level, self.x_0))
        return self.x_0

    def forget(self) -> None:
        """Begin anew, from a sample that the evaluations so far did not lead to."""
        self.history.clear()
        self.memory.clear()


@dataclass
class Sampler(ABC):
    """Walks from noise to data along a grid of times. A new one is one method, `step`.

    Args:
        schedule: the forward process.
        steps: number of steps.
        time_grid: gives the times of (schedule, steps, start); see :mod:`src.samplers.time_grids`.
        clip: bounds every predicted x_0; see :mod:`src.samplers.clipping`; None for none.
    """

    schedule: Schedule
    steps: Annotated[int, Ge(1)] = 50
    time_grid: TimeGrid = uniform_time_grid
    clip: Callable[[Tensor], Tensor] | None = None
    _levels: dict[float, NoiseLevel] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"sampler.steps must be >= 1, got {self.steps}")

    @abstractmethod
    def step(self, denoise: DenoiserMemory, x_t: Tensor, t: NoiseLevel, s: NoiseLevel, noise: Noise) -> Tensor:
        """x_s from x_t, for s < t.

        Args:
            denoise: predicts x_0 from (x_t, level); remembers earlier predictions.
            x_t: (B, C, *S).
            t, s: levels; the noise of t is above 0.
            noise: draws standard normal noise shaped as its argument. It is a function rather than a generator so that
                each sample can have a stream of its own, and tests can share noise with another implementation.
        """

    def times(self, start: float = 1.0) -> Tensor:
        """The times that are walked, float64, from `start` to 0; where they rise, noise is added."""
        return self.time_grid(self.schedule, self.steps, start)

    def trajectory(
        self,
        denoise: Callable[[Tensor, Tensor], Tensor | Prediction],
        x_t: Tensor,
        noise: Noise,
        start: float = 1.0,
        times: Tensor | None = None,
    ) -> Iterator[State]:
        """Yield `x_t` at its time, then the state after every step.

        Args:
            denoise: predicts x_0 from (x_t, t), any callable that gives a tensor or a `Prediction`.
            x_t: the sample to start from, any, at time `start`.
            noise: see `step`.
            start: where the grid begins.
            times: walk these instead, such as a part of a grid.
        """
        levels = self.noise_levels(self.times(start) if times is None else times)
        memory = DenoiserMemory(denoise, self.clip or NoClip())
        yield State(levels[0].t, x_t, None)
        for i, (t, s) in enumerate(pairwise(levels)):
            memory.steps_left = len(levels) - 1 - i
            if s.t > t.t:
                x_t = renoise(x_t, t, s, noise)
                memory.forget()
            else:
                x_t = self.step(memory, x_t, t, s, noise)
            yield State(s.t, x_t, memory.x_0)

    def sample_prior(self, noise: Noise, like: Tensor) -> Tensor:
        r"""Pure noise :math:`\sigma_1 z`, shaped as `like`."""
        _, sigma = self.schedule.alpha_sigma(torch.tensor(1.0, dtype=torch.float64))
        return sigma.detach() * noise(like)

    def noise_levels(self, times: Tensor) -> list[NoiseLevel]:
        """The levels of some times, all computed at once."""
        times = times.to(torch.float64)
        alpha, sigma = (v.tolist() for v in self.schedule.alpha_sigma(times))
        return [NoiseLevel(*level) for level in zip(times.unbind(), alpha, sigma, strict=True)]

    def level_at(self, half_log_snr: float) -> NoiseLevel:
        """The level with this log of alpha / sigma, or the end of the schedule that comes before it."""
        if half_log_snr not in self._levels:
            t = self.schedule.inverse_log_snr(torch.tensor(2 * half_log_snr, dtype=torch.float64))
            (self._levels[half_log_snr],) = self.noise_levels(t[None])
        return self._levels[half_log_snr]


def transition(s: NoiseLevel, t: NoiseLevel) -> tuple[float, float]:
    r""":math:`\alpha_{t|s}` and :math:`\sigma_{t|s}` of the way from s to the noisier t; see `Schedule.transition`."""
    rise = 2 * (t.half_log_snr - s.half_log_snr)
    return t.alpha / s.alpha, t.sigma * math.sqrt(-math.expm1(rise))


def renoise(x_s: Tensor, s: NoiseLevel, t: NoiseLevel, noise: Noise) -> Tensor:
    """x_t from x_s, for t > s: a part of the forward process."""
    alpha_ts, sigma_ts = transition(s, t)
    return alpha_ts * x_s + sigma_ts * noise(x_s)


def ddim_step(x_t: Tensor, x_0: Tensor, t: NoiseLevel, s: NoiseLevel) -> Tensor:
    r""":math:`\alpha_s \hat x_0 + \sigma_s \hat\epsilon`, along a straight line of :math:`x / \alpha` over
    :math:`\sigma / \alpha`: a step of Euler's method, and of DDIM.
    """
    shrink = s.sigma / t.sigma
    return shrink * x_t + (s.alpha - shrink * t.alpha) * x_0


class SeededNoise:
    """Noise in which sample i depends on its own seed alone, not on its place in the batch or the batch's size.

    Small samples are given the noise of some calls at once, since each draw from a generator has a cost of its own.

    Args:
        seeds: one seed a sample, of whatever can be written as text.
        device: where to draw.
    """

    CALLS, NUMBERS = 64, 2**14  # the most of either that are drawn at once for a sample, if of more than one call

    def __init__(self, seeds: Sequence[int | str], device: torch.device | str = "cpu"):
        self.generators = [generator("sample", seed, device=device) for seed in seeds]
        self.drawn: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) != len(self.generators):
            raise ValueError(
                f"SeededNoise needs a seed for each sample, got {len(self.generators)} seeds for a batch of {len(x)}"
            )
        if not self.drawn:
            shape = (max(1, min(self.CALLS, self.NUMBERS // x[0].numel())), *x.shape[1:])
            each = [torch.randn(shape, generator=g, device=x.device, dtype=x.dtype) for g in self.generators]
            self.drawn = list(torch.stack(each, 1).flip(0))
        return self.drawn.pop()

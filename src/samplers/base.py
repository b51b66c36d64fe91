"""The base class of the samplers with their common loop, and per-sample noise."""

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, ClassVar, NamedTuple

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
    """A noise level: a time and its coefficients, as Python floats, so in float64 for samples of any precision.

    Attributes:
        t: time, 0-dimensional float64 on the CPU.
        alpha, sigma: coefficients of the signal and the noise at t.
    """

    t: Tensor
    alpha: float
    sigma: float

    @property
    def half_log_snr(self) -> float:
        r""":math:`\log(\alpha / \sigma)`, infinite if either is 0."""
        if self.sigma == 0:
            return math.inf
        return math.log(self.alpha / self.sigma) if self.alpha > 0 else -math.inf

    def eps(self, x_t: Tensor, x_0: Tensor) -> Tensor:
        """The noise in x_t, given the data x_0."""
        return (x_t - self.alpha * x_0) / self.sigma


class State(NamedTuple):
    """A point of a trajectory: the time, the sample, and the last prediction of the data, None at the start."""

    t: Tensor
    x_t: Tensor
    x_0: Tensor | None


class DenoiserMemory:
    """A denoiser with clipping and the history of its predictions, for one trajectory.

    Attributes:
        history: (noise level, x_0) of the last evaluations at levels with signal, the newest last.
        last: the newest prediction, unclipped.
        x_0: the newest prediction of the data, clipped.
        memory: further state of multistep methods, by name.
        steps_left: number of steps left, including the current one.
    """

    def __init__(self, predict: Callable[..., Tensor | Prediction], clip: Callable[[Tensor], Tensor]):
        self.predict, self.clip = predict, clip
        self.history: deque[tuple[NoiseLevel, Tensor]] = deque(maxlen=4)
        self.last: Prediction | None = None
        self.x_0: Tensor | None = None
        self.memory: dict[str, Any] = {}
        self.steps_left: int  # set before each step

    def __call__(self, x_t: Tensor, level: NoiseLevel, target: NoiseLevel | None = None) -> Tensor:
        """The predicted data, clipped; with a target those of a flow map on the way there."""
        prediction = self.predict(x_t, level.t) if target is None else self.predict(x_t, level.t, target.t)
        self.last = prediction if isinstance(prediction, Prediction) else Prediction(prediction)
        self.x_0 = self.clip(self.last.x_0)
        # A level without signal has an infinite log-SNR, from which nothing can be extrapolated.
        if level.alpha > 0:
            self.history.append((level, self.x_0))
        return self.x_0

    def forget(self) -> None:
        """Clear the history, after a change of the sample that is not a step."""
        self.history.clear()
        self.memory.clear()


@dataclass
class Sampler(ABC):
    """The base class of samplers, which step from noise to data along a time grid. A new one implements `step`.

    Args:
        schedule: the forward process.
        steps: number of steps.
        time_grid: function of (schedule, steps, start); see :mod:`src.samplers.time_grids`.
        clip: applied to every predicted x_0; see :mod:`src.samplers.clipping`; None for no clipping.
        temperature: standard deviation of all noise that is drawn, that of the start and of the steps; 1 for samples of
            the model. Samples deviate by this factor from what the network takes for the mean, exactly so on Gaussian
            data: less error and less detail below 1 (Lugmayr et al. 2020, arXiv:2006.14200, section 4.1, for flows).

    Attributes:
        needs_flow_map: True if the denoiser must be a flow map.
    """

    needs_flow_map: ClassVar[bool] = False

    schedule: Schedule
    steps: Annotated[int, Ge(1)] = 50
    time_grid: TimeGrid = uniform_time_grid
    clip: Callable[[Tensor], Tensor] | None = None
    temperature: Annotated[float, Ge(0)] = field(default=1.0, kw_only=True)
    _levels: dict[float, NoiseLevel] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"sampler.steps must be >= 1, got {self.steps}")
        if not self.temperature >= 0:
            raise ValueError(f"sampler.temperature must be >= 0, got {self.temperature}")

    @abstractmethod
    def step(self, denoise: DenoiserMemory, x_t: Tensor, t: NoiseLevel, s: NoiseLevel, noise: Noise) -> Tensor:
        """Step from x_t to x_s, s < t.

        Args:
            denoise: predicts x_0 from (x_t, noise level) and keeps the earlier predictions.
            x_t: (B, C, *S).
            t, s: noise levels; sigma > 0 at t.
            noise: draws standard normal noise shaped as its argument. It is a function rather than a generator so that
                each sample can have a stream of its own, and tests can share noise with another implementation.
        """

    def times(self, start: float = 1.0) -> Tensor:
        """The times of the trajectory, float64, from `start` to 0; where they increase, noise is added."""
        return self.time_grid(self.schedule, self.steps, start)

    def trajectory(
        self,
        denoise: Callable[..., Tensor | Prediction],
        x_t: Tensor,
        noise: Noise,
        start: float = 1.0,
        times: Tensor | None = None,
    ) -> Iterator[State]:
        """Yield `x_t` at its time, then the state after every step.

        Args:
            denoise: any function of (x_t, t), for a flow map also of s, that returns x_0 or a `Prediction`.
            x_t: the sample at time `start`.
            noise: see `step`.
            start: first time of the grid.
            times: times to use instead of the grid, such as part of one.
        """
        levels = self.noise_levels(self.times(start) if times is None else times)
        memory, noise = DenoiserMemory(denoise, self.clip or NoClip()), self.tempered(noise)
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
        r"""Pure noise :math:`\sigma_1 z`, times the temperature, shaped as `like`."""
        _, sigma = self.schedule.alpha_sigma(torch.tensor(1.0, dtype=torch.float64))
        return sigma.detach() * self.tempered(noise)(like)

    def tempered(self, noise: Noise) -> Noise:
        """The noise times the temperature."""
        return noise if self.temperature == 1 else lambda x: self.temperature * noise(x)

    def noise_levels(self, times: Tensor) -> list[NoiseLevel]:
        """The noise levels at times (K,), computed in one call."""
        times = times.to(torch.float64)
        alpha, sigma = (v.tolist() for v in self.schedule.alpha_sigma(times))
        return [NoiseLevel(*level) for level in zip(times.unbind(), alpha, sigma, strict=True)]

    def level_at(self, half_log_snr: float) -> NoiseLevel:
        """The noise level with this log(alpha / sigma), within the range of the schedule."""
        if half_log_snr not in self._levels:
            t = self.schedule.inverse_log_snr(torch.tensor(2 * half_log_snr, dtype=torch.float64)).detach()
            (self._levels[half_log_snr],) = self.noise_levels(t[None])
        return self._levels[half_log_snr]


def transition(s: NoiseLevel, t: NoiseLevel) -> tuple[float, float]:
    r""":math:`\alpha_{t|s}` and :math:`\sigma_{t|s}` of the transition from s to t > s; see `Schedule.transition`."""
    rise = 2 * (t.half_log_snr - s.half_log_snr)
    return t.alpha / s.alpha, t.sigma * math.sqrt(-math.expm1(rise))


def renoise(x_s: Tensor, s: NoiseLevel, t: NoiseLevel, noise: Noise) -> Tensor:
    """Draw x_t from x_s, t > s, by the forward process."""
    alpha_ts, sigma_ts = transition(s, t)
    return alpha_ts * x_s + sigma_ts * noise(x_s)


def ddim_step(x_t: Tensor, x_0: Tensor, t: NoiseLevel, s: NoiseLevel) -> Tensor:
    r""":math:`x_s = \alpha_s \hat x_0 + \sigma_s \hat\epsilon`: a step of DDIM with eta = 0, and of Euler's method."""
    shrink = s.sigma / t.sigma
    return shrink * x_t + (s.alpha - shrink * t.alpha) * x_0


class SeededNoise:
    """Standard normal noise with one stream per sample, independent of the batch that the sample is in.

    For small samples the noise of several calls is drawn at once, since each draw from a generator has overhead.

    Args:
        seeds: one seed for each sample.
        device: device of the generators.
    """

    CALLS, NUMBERS = 64, 2**14  # maximum numbers of calls and of values that are drawn at once for a sample

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

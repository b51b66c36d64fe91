"""Time samplers: distributions of the training times, drawn for the global batch of all processes."""

import math
from abc import ABC, abstractmethod
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn

from src.diffusion.schedules import Schedule, Time


def stratified_uniform(n: int, generator: torch.Generator) -> Time:
    """Stratified uniform numbers (n,) in [0, 1): one is drawn, the others follow at distances of 1 / n.

    Each is uniform, but means of functions of them have a lower variance.

    Source: Kingma et al. 2021, arXiv:2107.00630, appendix I.1.
    """
    u = torch.rand((), generator=generator, dtype=torch.float64)
    return (u + torch.arange(n, dtype=torch.float64) / n) % 1


class TimeSampler(ABC):
    """The base class of time samplers. A new one implements `__call__`."""

    @abstractmethod
    def __call__(self, n: int, generator: torch.Generator, schedule: Schedule) -> Time:
        """Draw n times in (0, 1], float64 on the CPU."""

    def for_validation(self) -> "TimeSampler":
        """The time sampler of the validation: stratified uniform times, unless only some times are trained."""
        return StratifiedTimeSampler()

    def importance_weights(self, t: Time) -> Time:
        """The factors of the losses at t that make their mean one over uniform times; 1 without importance sampling."""
        return torch.ones_like(t)

    def update_with_losses(self, t: Time, losses: Tensor) -> None:  # noqa: B027 - most do not learn
        """Update the distribution with the losses of a global batch, after each step."""


class UniformTimeSampler(TimeSampler):
    """Independent times, uniform in [t_min, 1].

    Args:
        t_min: smallest time; below about 1e-6 x_t equals x_0 in float32.
    """

    def __init__(self, t_min: Annotated[float, Interval(gt=0, lt=1)] = 1e-5):
        self.t_min = _check_t_min(t_min)

    def __call__(self, n, generator, schedule):
        return self.t_min + (1 - self.t_min) * torch.rand(n, generator=generator, dtype=torch.float64)


class StratifiedTimeSampler(UniformTimeSampler):
    r"""Times that cover [t_min, 1] evenly: :math:`u_i = (u + i / n) \bmod 1` with one uniform u for the whole batch.

    Source: Kingma et al. 2021, arXiv:2107.00630, appendix I.1.
    """

    def __call__(self, n, generator, schedule):
        return self.t_min + (1 - self.t_min) * stratified_uniform(n, generator)


class FixedTimeSampler(TimeSampler):
    """A single time: the model becomes a plain denoiser at one noise level.

    Args:
        t: in (0, 1].

    Source: Vincent et al. 2008, 10.1145/1390156.1390294 (denoising autoencoders).
    """

    def __init__(self, t: Annotated[float, Interval(gt=0, le=1)] = 1.0):
        if not 0 < t <= 1:
            raise ValueError(f"time_sampler.t must be in (0, 1], got {t}")
        self.t = t

    def __call__(self, n, generator, schedule):
        return torch.full((n,), self.t, dtype=torch.float64)

    def for_validation(self):
        return self


class DiscreteUniformTimeSampler(TimeSampler):
    """Independent times, uniform on the nodes k / steps, k = 1 .. steps.

    Source: Ho et al. 2020, arXiv:2006.11239, algorithm 1.
    """

    def __init__(self, steps: Annotated[int, Ge(1)] = 1000):
        if steps < 1:
            raise ValueError(f"time_sampler.steps must be >= 1, got {steps}")
        self.steps = steps

    def __call__(self, n, generator, schedule):
        return torch.randint(1, self.steps + 1, (n,), generator=generator, dtype=torch.float64) / self.steps


class LogNormalTimeSampler(TimeSampler):
    r"""Noise levels :math:`\log(\sigma_t / \alpha_t) \sim N(m, s^2)`, for any schedule.

    They are stratified over the batch, and clamped to the range of the schedule.

    Source: Karras et al. 2022, arXiv:2206.00364, section 5 and table 1.
    """

    def __init__(
        self,
        mean: float = -1.2,
        std: Annotated[float, Gt(0)] = 1.2,
        t_min: Annotated[float, Interval(gt=0, lt=1)] = 1e-5,
    ):
        self.mean, self.std, self.t_min = mean, _check_std(std), _check_t_min(t_min)

    def __call__(self, n, generator, schedule):
        log_ratio = self.mean + self.std * torch.special.ndtri(stratified_uniform(n, generator))
        return schedule.inverse_log_snr(-2 * log_ratio).clamp(min=self.t_min)


class LogitNormalTimeSampler(TimeSampler):
    r"""Times :math:`t = \operatorname{sigmoid}(m + s z)`, denser in the middle.

    The normal z are stratified over the batch.

    Source: Esser et al. 2024, arXiv:2403.03206, eq. 19.
    """

    def __init__(
        self,
        mean: float = 0.0,
        std: Annotated[float, Gt(0)] = 1.0,
        t_min: Annotated[float, Interval(gt=0, lt=1)] = 1e-5,
    ):
        self.mean, self.std, self.t_min = mean, _check_std(std), _check_t_min(t_min)

    def __call__(self, n, generator, schedule):
        z = torch.special.ndtri(stratified_uniform(n, generator))
        return torch.sigmoid(self.mean + self.std * z).clamp(min=self.t_min)


class LossSecondMomentTimeSampler(nn.Module, TimeSampler):
    r"""Importance sampling of times, in proportion to the root mean square of the loss in each bin.

    .. math:: p_j \propto \sqrt{E[L^2 \mid j]}, \quad \text{weight}_j = 1 / (J p_j)

    Until every bin has `history_per_term` losses the times are drawn uniformly. The losses are part of the checkpoint
    and equal on all processes. Each step waits for the device once, to copy its losses.

    Args:
        bins: J, number of bins of equal width in [t_min, 1].
        history_per_term: number of losses kept per bin.
        uniform_prob: probability of a uniform draw, so that every bin is visited.
        t_min: smallest time.

    Source: Nichol, Dhariwal 2021, arXiv:2102.09672, eq. 18 and code.
    """

    losses: Tensor
    counts: Tensor

    def __init__(
        self,
        bins: Annotated[int, Ge(1)] = 100,
        history_per_term: Annotated[int, Ge(1)] = 10,
        uniform_prob: Annotated[float, Interval(gt=0, le=1)] = 0.001,
        t_min: Annotated[float, Interval(gt=0, lt=1)] = 1e-5,
    ):
        super().__init__()
        if bins < 1 or history_per_term < 1 or not 0 < uniform_prob <= 1:
            raise ValueError(
                "time_sampler.bins and time_sampler.history_per_term must be >= 1, uniform_prob in (0, 1], "
                f"got {bins}, {history_per_term} and {uniform_prob}"
            )
        self.uniform_prob, self.t_min = uniform_prob, _check_t_min(t_min)
        self.register_buffer("losses", torch.zeros(bins, history_per_term))
        self.register_buffer("counts", torch.zeros(bins, dtype=torch.int64))
        self.copies: tuple[Tensor, Tensor] | None = None
        self.register_load_state_dict_post_hook(lambda *_: self.forget_copies())

    def forget_copies(self) -> None:
        """Read the buffers again, which have changed."""
        self.copies = None

    def history(self) -> tuple[Tensor, Tensor]:
        """Losses and counts on the CPU: the buffers, or if they are on a device copies, so that none waits for it."""
        if self.losses.device.type == "cpu":
            self.forget_copies()
            return self.losses, self.counts
        if self.copies is None:
            self.copies = self.losses.cpu(), self.counts.cpu()
        return self.copies

    def probabilities(self) -> Tensor:
        """The probability of each bin, float64 on the CPU."""
        losses, counts = self.history()
        losses = losses.double()
        bins, history_per_term = losses.shape
        if (counts < history_per_term).any():
            return torch.full((bins,), 1 / bins, dtype=torch.float64)
        root = losses.square().mean(1).sqrt()
        return (1 - self.uniform_prob) * root / root.sum() + self.uniform_prob / bins

    def forward(self, n: int, generator: torch.Generator, schedule: Schedule) -> Time:
        p = self.probabilities()
        bins = torch.multinomial(p, n, replacement=True, generator=generator)
        within = torch.rand(n, generator=generator, dtype=torch.float64)
        return self.t_min + (1 - self.t_min) * (bins + within) / len(p)

    def importance_weights(self, t: Time) -> Time:
        p = self.probabilities()
        return 1 / (len(p) * p[self.bin(t)])

    def update_with_losses(self, t: Time, losses: Tensor) -> None:
        kept, counts = self.history()
        history_per_term = kept.shape[1]
        for j, loss in zip(self.bin(t).tolist(), losses.tolist(), strict=True):
            if not math.isfinite(loss):
                continue  # an overflow in float16, whose step is left out
            kept[j, int(counts[j]) % history_per_term] = loss
            counts[j] += 1
        if kept is not self.losses:
            # Clones: the next step changes the copies, which the device may still be reading.
            self.losses.copy_(kept.clone(), non_blocking=True)
            self.counts.copy_(counts.clone(), non_blocking=True)

    def bin(self, t: Time) -> Tensor:
        """The bin of each time."""
        share = (t - self.t_min) / (1 - self.t_min)
        return (share * len(self.losses)).long().clamp(0, len(self.losses) - 1)


def _check_t_min(t_min: float) -> float:
    if not 0 < t_min < 1:
        raise ValueError(f"time_sampler.t_min must be in (0, 1), got {t_min}")
    return t_min


def _check_std(std: float) -> float:
    if std <= 0:
        raise ValueError(f"time_sampler.std must be > 0, got {std}")
    return std

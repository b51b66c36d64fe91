r"""Time grids: the times of a sampler's steps.

Each maps (schedule, steps, start) to steps + 1 decreasing float64 times from `start` to 0. Those in terms of noise
levels :math:`\tilde\sigma = \sigma / \alpha` begin at `start`, at any noise level, have the other levels at most
`sigma_max`, and end with the step from `sigma_min` to 0.
"""

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from src.diffusion.schedules import Schedule

TimeGrid = Callable[[Schedule, int, float], Tensor]


def uniform_time_grid(schedule: Schedule, steps: int, start: float = 1.0) -> Tensor:
    """Equal steps of t."""
    return torch.linspace(start, 0, steps + 1, dtype=torch.float64)


def trailing_time_grid(schedule: Schedule, steps: int, start: float = 1.0) -> Tensor:
    """Equal steps of t from the noisy end, rounded to the nodes of a discrete schedule.

    Source: Lin et al. 2024, arXiv:2305.08891, table 2.
    """
    nodes = getattr(schedule, "steps", 0)
    times = uniform_time_grid(schedule, steps, start)
    rounded = (times[1:-1] * nodes).round() / nodes if nodes else times[1:-1]
    if nodes and (rounded.unique().numel() < steps - 1 or (rounded <= 0).any()):
        raise ValueError(
            f"time_grid=trailing needs sampler.steps <= schedule.steps, got {steps} and {nodes}; use time_grid=uniform"
        )
    return torch.cat([times[:1], rounded, times[-1:]])


def leading_time_grid(schedule: Schedule, steps: int, start: float = 1.0, offset: Annotated[int, Ge(0)] = 0) -> Tensor:
    """Equal steps of whole nodes of a discrete schedule from the clean end, as in diffusers.

    Where they do not divide the nodes, and in all other cases by almost a step, the grid begins below `start`, with a
    sample that has more noise than is expected there. It is there for models and results of that library.

    Args:
        schedule, steps, start: see above.
        offset: nodes by which the times, but for the last, are later.

    Source: Lin et al. 2024, arXiv:2305.08891, table 2.
    """
    nodes = round(getattr(schedule, "steps", 0) * start)
    if steps > nodes:
        raise ValueError(f"time_grid=leading needs sampler.steps <= schedule.steps, got {steps} and {nodes}")
    k = torch.arange(steps, dtype=torch.float64).flip(0) * (nodes // steps) + 1 + offset
    return torch.cat([k / getattr(schedule, "steps", 1), torch.zeros(1, dtype=torch.float64)])


def quadratic_time_grid(schedule: Schedule, steps: int, start: float = 1.0) -> Tensor:
    """Equal steps of the square root of t: finer near the data.

    Source: Song, Meng, Ermon 2021, arXiv:2010.02502, appendix D.2.
    """
    return start * torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** 2


def karras_time_grid(
    schedule: Schedule,
    steps: int,
    start: float = 1.0,
    sigma_min: Annotated[float, Gt(0)] = 0.002,
    sigma_max: Annotated[float, Gt(0)] = 80.0,
    rho: Annotated[float, Gt(0)] = 7.0,
) -> Tensor:
    r"""Equal steps of :math:`\tilde\sigma^{1/\rho}`.

    Source: Karras et al. 2022, arXiv:2206.00364, eq. 5.
    """
    _check_sigmas(sigma_min, sigma_max)
    return times_at_sigmas(
        schedule, start, sigma_max,
        lambda top: torch.linspace(top ** (1 / rho), sigma_min ** (1 / rho), steps, dtype=torch.float64) ** rho,
    )  # fmt: skip


def log_snr_time_grid(
    schedule: Schedule,
    steps: int,
    start: float = 1.0,
    sigma_min: Annotated[float, Gt(0)] = 0.002,
    sigma_max: Annotated[float, Gt(0)] = 80.0,
) -> Tensor:
    r"""Equal steps of the log-SNR.

    Source: Lu et al. 2022, arXiv:2206.00927, section 3.3.
    """
    _check_sigmas(sigma_min, sigma_max)
    return times_at_sigmas(schedule, start, sigma_max, lambda top: interpolate_log([top, sigma_min], steps))


def align_your_steps_time_grid(
    schedule: Schedule, steps: int, start: float = 1.0, sigmas: Sequence[Annotated[float, Gt(0)]] = ()
) -> Tensor:
    r"""A list of decreasing noise levels :math:`\tilde\sigma`, without the final 0.

    Levels at or above the one of `start` are left out; for another number of steps the list is interpolated in the
    logarithm.

    Source: Sabour et al. 2024 (Align Your Steps), arXiv:2404.14507, and its published lists.
    """
    levels = list(sigmas)
    if len(levels) < 2 or levels[-1] <= 0 or levels != sorted(set(levels), reverse=True):
        raise ValueError(f"time_grid.sigmas must be a decreasing list of two or more noise levels > 0, got {levels}")

    def from_top(top: float) -> Tensor:
        below = [level for level in levels if level < top] or levels[-1:]
        return interpolate_log([top, *below], steps)

    return times_at_sigmas(schedule, start, levels[0], from_top)


def interpolate_log(levels: Sequence[float], n: int) -> Tensor:
    """Interpolate noise levels to n, evenly spaced in the index and linear in the logarithm."""
    known = torch.tensor(levels, dtype=torch.float64).log()
    place = torch.linspace(0, len(levels) - 1, n, dtype=torch.float64)
    below = place.floor().long().clamp(max=len(levels) - 2)
    return torch.lerp(known[below], known[below + 1], place - below).exp()


def times_at_sigmas(schedule: Schedule, start: float, sigma_max: float, make: Callable[[float], Tensor]) -> Tensor:
    """The times of the noise levels `make(highest)`, with `start` in place of the first and a final 0."""
    begin = torch.tensor(start, dtype=torch.float64)
    top = min(sigma_max, float(torch.exp(-schedule.log_snr(begin) / 2)))
    times = schedule.inverse_log_snr(-2 * make(top).log()).detach()
    times = torch.cat([begin[None], times[1:], torch.zeros(1, dtype=torch.float64)])
    if (times.diff() >= 0).any():
        raise ValueError(
            f"the times of the grid must decrease from t = {start:g} to 0, which they do not on this schedule; choose "
            "another time_grid.sigma_min, or use time_grid=uniform"
        )
    return times


def _check_sigmas(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"time_grid must have 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")

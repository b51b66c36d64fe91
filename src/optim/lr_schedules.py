"""Learning-rate schedules, as factors on the optimizer's learning rate."""

import inspect
from collections.abc import Callable
from math import cos, pi
from typing import Annotated

from annotated_types import Ge, Interval
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

Steps = Annotated[int, Ge(0)]
Ratio = Annotated[float, Interval(ge=0, le=1)]
Part = Annotated[float, Interval(ge=0, lt=1)]  # of the steps


def build_lr_schedule(make: Callable[..., LRScheduler], optimizer: Optimizer, total_steps: int) -> LRScheduler:
    """Build the learning-rate schedule of an optimizer: one of this module, of torch, or any other updated every step.

    Args:
        make: called with the optimizer, and with `total_steps` if it has that parameter and no value for it yet.
        optimizer: the optimizer whose learning rate is scheduled.
        total_steps: optimizer steps of the whole run, or -1 if only its time is limited.

    Raises:
        ValueError: if the arguments do not fit, or the schedule needs the validation loss.
    """
    takes = inspect.signature(make).parameters
    bound = getattr(make, "keywords", {})
    length = {"total_steps": total_steps} if "total_steps" in takes and bound.get("total_steps") is None else {}
    try:
        schedule = make(optimizer, **length)
    except TypeError as error:
        raise ValueError(f"{error}; a schedule is made of (optimizer) or (optimizer, total_steps)") from error
    if isinstance(schedule, ReduceLROnPlateau):
        raise ValueError("ReduceLROnPlateau needs a loss at each step, and is not supported; use lr_schedule=cosine")
    return schedule


def constant_lr(optimizer: Optimizer, total_steps: int, warmup_steps: Steps = 0) -> LambdaLR:
    """Linear warm-up over `warmup_steps`, then a constant learning rate."""
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(warmup_steps, 1)))


def cosine_lr(optimizer: Optimizer, total_steps: int, warmup_steps: Steps = 0, min_lr_ratio: Ratio = 0.0) -> LambdaLR:
    r"""Linear warm-up over `warmup_steps`, then half a cosine down to `min_lr_ratio` times the rate at the last step.

    The warm-up takes at most half of the run.

    Source: Loshchilov, Hutter 2017, arXiv:1608.03983, eq. 5, without restarts.
    """
    require_total_steps(total_steps)
    warmup_steps = min(warmup_steps, total_steps // 2)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return min_lr_ratio + (1 - min_lr_ratio) * (1 + cos(pi * done)) / 2

    return LambdaLR(optimizer, factor)


def trapezoid_lr(
    optimizer: Optimizer,
    total_steps: int,
    warmup_steps: Steps = 0,
    cooldown_start: Part = 0.4,
    min_lr_ratio: Ratio = 0.0,
) -> LambdaLR:
    r"""Linear warm-up, a constant learning rate, then linear decay to `min_lr_ratio` times it after the last step.

    .. math:: \min\left(1,\ \frac{k + 1}{W},\ r + (1 - r) \frac{1 - k / K}{1 - c}\right)

    is the factor at step k of K, counted from 0, with W `warmup_steps`, r `min_lr_ratio` and c `cooldown_start`; the
    decay begins at step c K. The warm-up takes at most half of the run.

    Source: Hägele et al. 2024, arXiv:2405.18392, section 3 (constant rate with a cooldown).
    """
    require_total_steps(total_steps)
    if not 0 <= cooldown_start < 1:
        raise ValueError(f"cooldown_start must be in [0, 1), got {cooldown_start}")
    warmup_steps = min(warmup_steps, total_steps // 2)

    def factor(step: int) -> float:
        left = max(0.0, 1 - step / total_steps)
        decay = min_lr_ratio + (1 - min_lr_ratio) * left / (1 - cooldown_start)
        return min(1.0, (step + 1) / max(warmup_steps, 1), decay)

    return LambdaLR(optimizer, factor)


def one_cycle_lr(
    optimizer: Optimizer,
    total_steps: int,
    pct_start: Part = 0.3,
    start_ratio: Ratio = 0.04,
    final_ratio: Ratio = 4e-6,
) -> LambdaLR:
    r"""Half a cosine up to the learning rate over the fraction `pct_start` of all steps, then half a cosine down.

    It begins at `start_ratio` and ends at `final_ratio` times the learning rate.

    Source: Smith, Topin 2018, arXiv:1708.07120, with the cosines and the defaults of torch's OneCycleLR. Written as a
    factor, so that a resumed run can be made longer.
    """
    require_total_steps(total_steps)
    peak = max(1.0, pct_start * total_steps - 1)

    def factor(step: int) -> float:
        if step < peak:
            return start_ratio + (1 - start_ratio) * (1 - cos(pi * step / peak)) / 2
        done = min(1.0, (step - peak) / max(1.0, total_steps - 1 - peak))
        return final_ratio + (1 - final_ratio) * (1 + cos(pi * done)) / 2

    return LambdaLR(optimizer, factor)


def require_total_steps(total_steps: int) -> None:
    """Raise ValueError if the number of optimizer steps of the run is unknown."""
    if total_steps < 1:
        raise ValueError(
            "the number of steps of the run must be known: set trainer.max_steps or trainer.max_epochs, "
            "or use lr_schedule=constant"
        )

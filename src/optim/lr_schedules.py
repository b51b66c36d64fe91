"""Learning-rate schedules, as factors on the optimizer's rate."""

import inspect
from collections.abc import Callable
from math import cos, pi

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from src.utils.errors import UserError
from src.utils.ranges import Fraction, NonNegativeInt, Probability


def build_lr_schedule(make: Callable[..., LRScheduler], optimizer: Optimizer, total_steps: int) -> LRScheduler:
    """The schedule that `make` gives for an optimizer: one of ours, one of torch's, or any other that steps each step.

    Args:
        make: called with the optimizer, and with `total_steps` where it takes that and does not have it yet.
        optimizer: whose rate it sets.
        total_steps: optimizer steps of the whole run, or -1 where only time ends it.

    Raises:
        ValueError: for arguments that it does not take, and for a schedule that needs the validation loss.
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


def constant(optimizer: Optimizer, total_steps: int, warmup: NonNegativeInt = 0) -> LambdaLR:
    """Linear warm-up over `warmup` steps, then a constant learning rate."""
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(warmup, 1)))


def cosine(optimizer: Optimizer, total_steps: int, warmup: NonNegativeInt = 0, final: Fraction = 0.0) -> LambdaLR:
    r"""Linear warm-up over `warmup` steps, then half a cosine down to the share `final` of the rate at the last step.

    Source: Loshchilov, Hutter 2017, arXiv:1608.03983, eq. 5, without restarts.
    """
    need_length("cosine", total_steps)
    warmup = min(warmup, total_steps // 2)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return final + (1 - final) * (1 + cos(pi * done)) / 2

    return LambdaLR(optimizer, factor)


def trapezoid(
    optimizer: Optimizer, total_steps: int, warmup: NonNegativeInt = 0, hold: Probability = 0.4, final: Fraction = 0.0
) -> LambdaLR:
    r"""Linear warm-up, the optimizer's rate, then straight down to the share `final` of it after the last step.

    .. math:: \min\left(1,\ \tfrac{k + 1}{\text{warmup}},\
              \text{final} + (1 - \text{final}) \tfrac{1 - k / K}{1 - \text{hold}}\right)

    is the share of the rate at step k of K, counted from 0; it falls from step `hold` K on.

    Source: Hägele et al. 2024, arXiv:2405.18392, section 3 (constant rate with a cooldown).
    """
    need_length("trapezoid", total_steps)
    if not 0 <= hold < 1:
        raise UserError(f"lr_schedule.hold is a share of the steps, in [0, 1), not {hold}")
    warmup = min(warmup, total_steps // 2)

    def factor(step: int) -> float:
        left = max(0.0, 1 - step / total_steps)
        return min(1.0, (step + 1) / max(warmup, 1), final + (1 - final) * left / (1 - hold))

    return LambdaLR(optimizer, factor)


def one_cycle(
    optimizer: Optimizer, total_steps: int, rise: Probability = 0.3, start: Fraction = 0.04, final: Fraction = 4e-6
) -> LambdaLR:
    r"""Half a cosine up from the share `start` of the rate over the share `rise` of all steps, and another down.

    Source: Smith, Topin 2018, arXiv:1708.07120, with the cosines and the shares of torch's OneCycleLR. Written as a
    factor so that a resumed run can be made longer.
    """
    need_length("one_cycle", total_steps)
    peak = max(1.0, rise * total_steps - 1)

    def factor(step: int) -> float:
        if step < peak:
            return start + (1 - start) * (1 - cos(pi * step / peak)) / 2
        done = min(1.0, (step - peak) / max(1.0, total_steps - 1 - peak))
        return final + (1 - final) * (1 + cos(pi * done)) / 2

    return LambdaLR(optimizer, factor)


def need_length(name: str, total_steps: int) -> None:
    """Refuse a run without a planned length."""
    if total_steps < 1:
        raise UserError(
            f"lr_schedule={name} needs to know how long the run is: set trainer.max_steps or trainer.max_epochs, "
            "or use lr_schedule=constant"
        )

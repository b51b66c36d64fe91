"""The convergence of a run: the trend of its validation loss, in total and by noise level."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import NamedTuple

TOLERANCE = 0.01  # a smaller relative decrease of the loss counts as none
MIN_VALIDATIONS = 6
LOSS, BIN = "val/loss_ema", "val_ema/log_snr/"


class Trend(NamedTuple):
    """The course of a loss.

    Attributes:
        decrease: relative decrease of the lowest value in the last third of the run below the lowest before; negative
            if it increased.
        since: index of the validation after which it never fell below that value by more than the tolerance.
    """

    decrease: float
    since: int


class ConvergenceStatus(NamedTuple):
    """The convergence status of a run.

    Attributes:
        text: the status in one line.
        improving: True if a loss still decreases at some noise level; None if unknown.
        relative_decrease: relative decrease of each loss in the last third of the run, by noise level; "all" is the
            mean loss.
    """

    text: str
    improving: bool | None
    relative_decrease: dict[str, float]


def trend(losses: Sequence[float], tolerance: float = TOLERANCE) -> Trend:
    """Compute the trend of at least 3 validation losses, in order.

    All use the same data, noise and times, so that they change only with the model.
    """
    third = len(losses) - len(losses) // 3
    before, after = min(losses[:third]), min(losses[third:])
    since = next(k for k in range(len(losses)) if min(losses[k:]) >= (1 - tolerance) * losses[k])
    return Trend(1 - after / before, since)


def convergence_status(rows: Sequence[Mapping[str, float]], tolerance: float = TOLERANCE) -> ConvergenceStatus:
    """Determine the convergence status from the rows of metrics.csv.

    The mean loss is dominated by noise levels at which nothing more can be learned, and is flat long before the others
    are: a run has converged once the loss decreases at no noise level.
    """
    rows = [row for row in rows if LOSS in row]
    if len(rows) < MIN_VALIDATIONS:
        return ConvergenceStatus(f"unknown: {len(rows)} validations, at least {MIN_VALIDATIONS} are needed", None, {})
    if lost := [row for row in rows if not all(isfinite(v) for k, v in row.items() if k == LOSS or k.startswith(BIN))]:
        return ConvergenceStatus(
            f"not available: the validation loss is NaN or infinite at step {lost[0]['step']:,.0f}", None, {}
        )
    names = [key for key in rows[-1] if key.startswith(BIN) and all(key in row and row[key] > 0 for row in rows)]
    trends = {level_name(key): trend([row[key] for row in rows], tolerance) for key in names}
    overall = trend([row[LOSS] for row in rows], tolerance) if rows[0][LOSS] > 0 else None
    decreases = ({"all": overall.decrease} if overall else {}) | {name: t.decrease for name, t in trends.items()}
    known = trends or ({"all": overall} if overall else {})
    if not known:
        return ConvergenceStatus(
            "unknown: the losses are not positive, which leaves their relative decrease undefined", None, {}
        )
    falling = {name: t.decrease for name, t in known.items() if t.decrease > tolerance}
    total = (
        f"the mean loss fell by {overall.decrease:.1%} in the last third of the run" if overall else "in the last third"
    )
    if falling:
        most = max(falling, key=lambda name: falling[name])
        where = "" if most == "all" else f", at log-SNR {most} by {falling[most]:.1%}"
        some = "" if most == "all" else f"; it still decreases at {len(falling)} of {len(trends)} noise levels"
        return ConvergenceStatus(f"improving: {total}{where}{some}", True, decreases)
    last = rows[max(t.since for t in known.values())]
    when = f"step {last['step']:,.0f}" + (f" (epoch {last['epoch']:.0f})" if "epoch" in last else "")
    rising = min(known, key=lambda name: known[name].decrease)
    worse = ""
    if known[rising].decrease < -tolerance:
        worse = f"; at log-SNR {rising} it rose by {-known[rising].decrease:.1%}, a sign of overfitting"
    return ConvergenceStatus(
        f"plateaued since {when}: {total}, and at no noise level by {tolerance:.0%}{worse}", False, decreases
    )


def level_name(key: str) -> str:
    """Format a noise level: `-4 to -2` for val_ema/log_snr/d_-4..-2."""
    return key.removeprefix(BIN).split("_", 1)[1].replace("..", " to ")

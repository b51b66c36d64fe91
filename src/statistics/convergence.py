"""Whether a run still improves, and at which noise levels."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import NamedTuple

TOLERANCE = 0.01  # a fall of the loss by less is none
LEAST = 6  # validations, fewer of which say nothing
LOSS, BIN = "val/loss_ema", "val_ema/log_snr/"


class Trend(NamedTuple):
    """How a loss went.

    fall: by which share its lowest value in the last third of the run lies below the lowest before; negative where it
        has risen.
    since: index of the validation after which it never fell by more than the tolerance below that one.
    """

    fall: float
    since: int


class Verdict(NamedTuple):
    """What the validations say of a run.

    text: a line.
    improving: whether a loss still falls at some noise level; None where there are too few validations.
    falls: by which share each loss fell in the last third, by its noise level, and over all as "all".
    """

    text: str
    improving: bool | None
    falls: dict[str, float]


def trend(losses: Sequence[float], tolerance: float = TOLERANCE) -> Trend:
    """Of the validation losses of a run, in order, at least 3.

    They are of the same data, noise and times each, so that they move only as the model does.
    """
    third = len(losses) - max(1, len(losses) // 3)
    before, after = min(losses[:third]), min(losses[third:])
    since = next(k for k in range(len(losses)) if min(losses[k:]) >= (1 - tolerance) * losses[k])
    return Trend(1 - after / before, since)


def verdict(rows: Sequence[Mapping[str, float]], tolerance: float = TOLERANCE) -> Verdict:
    """What the rows of a metrics.csv say.

    The mean loss is mostly that of noise levels at which nothing more can be learned, and looks flat long before the
    others are: a run has converged when the loss of no level falls any more.
    """
    rows = [row for row in rows if LOSS in row]
    if len(rows) < LEAST:
        return Verdict(f"too early to say: {len(rows)} validations, of {LEAST} that are needed", None, {})
    if lost := [row for row in rows if not all(isfinite(v) for k, v in row.items() if k == LOSS or k.startswith(BIN))]:
        return Verdict(
            f"not available: the validation loss is NaN or infinite at step {lost[0]['step']:,.0f}", None, {}
        )
    names = [key for key in rows[-1] if key.startswith(BIN) and all(key in row and row[key] > 0 for row in rows)]
    trends = {level(key): trend([row[key] for row in rows], tolerance) for key in names}
    overall = trend([row[LOSS] for row in rows], tolerance) if rows[0][LOSS] > 0 else None
    falls = ({"all": overall.fall} if overall else {}) | {name: t.fall for name, t in trends.items()}
    known = trends or ({"all": overall} if overall else {})
    if not known:
        return Verdict("the losses are not positive, so that no share of them can fall", None, {})
    falling = {name: t.fall for name, t in known.items() if t.fall > tolerance}
    total = f"the mean loss fell by {overall.fall:.1%} in the last third of the run" if overall else "in the last third"
    if falling:
        most = max(falling, key=lambda name: falling[name])
        where = "" if most == "all" else f", at log-SNR {most} by {falling[most]:.1%}"
        some = "" if most == "all" else f"; {len(falling)} of {len(trends)} noise levels still fall"
        return Verdict(f"improving: {total}{where}{some}", True, falls)
    last = rows[max(t.since for t in known.values())]
    when = f"step {last['step']:,.0f}" + (f" (epoch {last['epoch']:.0f})" if "epoch" in last else "")
    rising = min(known, key=lambda name: known[name].fall)
    worse = ""
    if known[rising].fall < -tolerance:
        worse = f"; at log-SNR {rising} it has risen by {-known[rising].fall:.1%}, as when data are learned by heart"
    return Verdict(f"plateaued since {when}: {total}, and at no noise level by {tolerance:.0%}{worse}", False, falls)


def level(key: str) -> str:
    """`-4 to -2` of val_ema/log_snr/d_-4..-2."""
    return key.removeprefix(BIN).split("_", 1)[1].replace("..", " to ")

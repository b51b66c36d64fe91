"""Spikes of a positive value that is measured in every step of a training."""

import math
from bisect import bisect_left, insort
from typing import Any, NamedTuple

WINDOW = 100  # steps of the running median
MIN_STEPS = 20  # before the first spike
FACTOR = 10.0  # least ratio of a spike to the running median
DEVIATIONS = 8.0  # and least distance from it, in standard deviations of the logarithm


class Spike(NamedTuple):
    """A spike, or the largest value.

    Attributes:
        step: the training step.
        value: the value.
        ratio: the value over its running median.
        t, s: times of the sample that has most of it.
    """

    step: int
    value: float
    ratio: float
    t: float
    s: float


class SpikeDetector:
    """Detect values far above the median of the last ones, on a logarithmic scale.

    A spike is `FACTOR` times the running median, and `DEVIATIONS` times as far above it as values usually are, by their
    median absolute deviation. Values that are not finite or not positive are left out.

    Args:
        least: least value of a spike.

    Attributes:
        count: number of spikes.
        last: step of the last one.
        worst: the one with the largest ratio.
        largest: the largest value of all.
    """

    def __init__(self, least: float = 0.0) -> None:
        self.least = least
        self.recent: list[float] = []  # logarithms, in the order of the steps
        self.ordered: list[float] = []
        self.count, self.last = 0, 0
        self.worst: Spike | None = None
        self.largest: Spike | None = None

    @property
    def usual(self) -> float:
        """The median of the last values, 0 without any."""
        return math.exp(median(self.ordered)) if self.ordered else 0.0

    def update(self, step: int, value: float, t: float, s: float) -> None:
        """Add the value of a step, with the times of the sample that has most of it."""
        if not 0 < value < math.inf:
            return
        level = math.log(value)
        now = Spike(step, value, value / (self.usual or value), t, s)
        self.largest = max(self.largest or now, now, key=lambda one: one.value)
        if value >= self.least and len(self.recent) >= MIN_STEPS and self.is_spike(level):
            self.count, self.last = self.count + 1, step
            self.worst = max(self.worst or now, now, key=lambda one: one.ratio)
        self.recent.append(level)
        insort(self.ordered, level)
        if len(self.recent) > WINDOW:
            del self.ordered[bisect_left(self.ordered, self.recent.pop(0))]

    def is_spike(self, level: float) -> bool:
        """True for a logarithm far above those of the last steps."""
        middle = median(self.ordered)
        if level - middle < math.log(FACTOR):
            return False
        usual = 1.4826 * median(sorted(abs(v - middle) for v in self.ordered))  # a standard deviation, for a normal one
        return level - middle > DEVIATIONS * usual

    def state_dict(self) -> dict[str, Any]:
        marks = {name: list(one) if (one := getattr(self, name)) else None for name in ("worst", "largest")}
        return {"recent": list(self.recent), "count": self.count, "last": self.last, **marks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.recent, self.ordered = list(state["recent"]), sorted(state["recent"])
        self.count, self.last = state["count"], state["last"]
        for name in ("worst", "largest"):
            setattr(self, name, Spike(*state[name]) if state[name] else None)


def median(ordered: list[float]) -> float:
    """The median of sorted values, of an even number the upper one."""
    return ordered[len(ordered) // 2]

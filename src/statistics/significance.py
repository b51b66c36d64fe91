"""Numbers with their noise, and whether one is better than all others by more than that."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10
from statistics import fmean, stdev
from typing import Literal

Better = Literal["lower", "higher"]
LEVEL = 0.05  # of significance


@dataclass(frozen=True)
class Estimate:
    """What one row of a table has in one column.

    Attributes:
        values: what was measured, once a seed.
        low, high: the 95 % interval of a single value, where one is known.
    """

    values: tuple[float, ...]
    low: float | None = None
    high: float | None = None

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def std(self) -> float | None:
        """The sample standard deviation over the seeds, dividing by n - 1; None for a single one."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %, of the mean over the seeds (Student's t) or of the single value; None where nothing is known."""
        if self.std is not None:
            from scipy.stats import t

            n = len(self.values)
            half = float(t.ppf(1 - LEVEL / 2, n - 1)) * self.std / n**0.5
            return self.mean - half, self.mean + half
        return None if self.low is None or self.high is None else (self.low, self.high)

    def __str__(self) -> str:
        """mean ± standard deviation, or value [low, high], to the digits that the noise leaves."""
        if self.std:
            digits = decimals(self.std)
            return f"{self.mean:.{digits}f} ± {self.std:.{digits}f}"
        if len(self.values) > 1 or self.low is None or self.high is None or self.low == self.high:
            return number(self.mean)
        digits = decimals(self.high - self.low)
        return f"{self.mean:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def number(value: float) -> str:
    """Four significant digits, and all of those before the point."""
    if not isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:#.4g}"


def decimals(spread: float) -> int:
    """How many places after the point show two digits of a spread."""
    return max(0, 1 - floor(log10(spread * (1 + 1e-9)))) if isfinite(spread) else 0


def differ(a: Estimate, b: Estimate) -> bool:
    r"""Whether two means differ by more than their noise; not where the noise of one is unknown.

    With several seeds on both sides by Welch's test, p < 0.05:

    .. math:: t = (\bar a - \bar b) / \sqrt{s_a^2 / n_a + s_b^2 / n_b}

    and otherwise where the 95 % intervals do not overlap, which is the stricter of the two.

    Source: Welch 1947, 10.1093/biomet/34.1-2.28.
    """
    if a.std is not None and b.std is not None:
        from scipy.stats import ttest_ind_from_stats

        if a.std == b.std == 0:
            return False  # what repeats exactly says nothing of its noise
        sides = (a.mean, a.std, len(a.values)), (b.mean, b.std, len(b.values))
        return bool(ttest_ind_from_stats(*sides[0], *sides[1], equal_var=False).pvalue < LEVEL)
    one, other = a.interval, b.interval
    return one is not None and other is not None and (one[1] < other[0] or other[1] < one[0])


def best(estimates: Sequence[Estimate | None], better: Better | None) -> int | None:
    """The place of the one that is better than every other by more than the noise, or None.

    It has to beat all of them, so that more rows do not make a mark by chance more likely.
    """
    there = [i for i, e in enumerate(estimates) if e is not None and isfinite(e.mean)]
    if better is None or len(there) < 2:
        return None
    sign = 1 if better == "lower" else -1
    first = min(there, key=lambda i: sign * estimates[i].mean)  # type: ignore[union-attr]
    return first if all(differ(estimates[first], estimates[i]) for i in there if i != first) else None  # type: ignore[arg-type]


def share_interval(hits: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a probability, of which `hits` of n trials came true.

    Source: Wilson 1927, 10.1080/01621459.1927.10502953.
    """
    from scipy.stats import binomtest

    interval = binomtest(round(hits), n).proportion_ci(0.95, "wilson")
    return float(interval.low), float(interval.high)

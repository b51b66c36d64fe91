"""Estimates with uncertainty, and significance tests for the best one."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10
from statistics import fmean, stdev
from typing import Literal

Better = Literal["lower", "higher"]
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Estimate:
    """A number estimated from one or several seeds.

    Attributes:
        values: one value per seed.
        low, high: the 95 % interval of a single value, if known.
    """

    values: tuple[float, ...]
    low: float | None = None
    high: float | None = None

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def std(self) -> float | None:
        """The sample standard deviation over the seeds (n - 1 degrees of freedom); None for a single seed."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean over the seeds (Student's t) or of the single value; None if unknown."""
        if self.std is not None:
            from scipy.stats import t

            n = len(self.values)
            half = float(t.ppf(1 - SIGNIFICANCE / 2, n - 1)) * self.std / n**0.5
            return self.mean - half, self.mean + half
        return None if self.low is None or self.high is None else (self.low, self.high)

    def __str__(self) -> str:
        """mean ± standard deviation, or value [low, high], rounded to the uncertainty."""
        if self.std:
            digits = decimals(self.std)
            return f"{self.mean:.{digits}f} ± {self.std:.{digits}f}"
        if len(self.values) > 1 or self.low is None or self.high is None or self.low == self.high:
            return format_number(self.mean)
        digits = decimals(self.high - self.low)
        return f"{self.mean:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def format_number(value: float) -> str:
    """Format a number with four significant digits, or without decimals from 1,000 on."""
    if not isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:#.4g}"


def decimals(spread: float) -> int:
    """The number of decimals that shows two digits of a standard deviation."""
    return max(0, 1 - floor(log10(spread * (1 + 1e-9)))) if isfinite(spread) else 0


def differ(a: Estimate, b: Estimate) -> bool:
    r"""Return True if two means differ significantly; False if the uncertainty of one is unknown.

    With several seeds on both sides, Welch's test with p < 0.05:

    .. math:: t = (\bar a - \bar b) / \sqrt{s_a^2 / n_a + s_b^2 / n_b}

    otherwise, disjoint 95 % intervals, which is the stricter criterion.

    Source: Welch 1947, 10.1093/biomet/34.1-2.28.
    """
    if a.std is not None and b.std is not None:
        from scipy.stats import ttest_ind_from_stats

        if a.std == b.std == 0:
            return False  # identical repetitions contain no information about their variance
        sides = (a.mean, a.std, len(a.values)), (b.mean, b.std, len(b.values))
        return bool(ttest_ind_from_stats(*sides[0], *sides[1], equal_var=False).pvalue < SIGNIFICANCE)
    one, other = a.interval, b.interval
    return one is not None and other is not None and (one[1] < other[0] or other[1] < one[0])


def best(estimates: Sequence[Estimate | None], better: Better | None) -> int | None:
    """The index of the estimate that is significantly better than every other, or None.

    It must beat all others, so that more rows do not make a false positive more likely.
    """
    known = [i for i, e in enumerate(estimates) if e is not None and isfinite(e.mean)]
    if better is None or len(known) < 2:
        return None
    sign = 1 if better == "lower" else -1
    first = min(known, key=lambda i: sign * estimates[i].mean)  # type: ignore[union-attr]
    return first if all(differ(estimates[first], estimates[i]) for i in known if i != first) else None  # type: ignore[arg-type]


def wilson_interval(hits: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a probability, given the number of hits in n trials.

    Source: Wilson 1927, 10.1080/01621459.1927.10502953.
    """
    from scipy.stats import binomtest

    interval = binomtest(round(hits), n).proportion_ci(0.95, "wilson")
    return float(interval.low), float(interval.high)

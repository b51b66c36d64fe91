"""Goodness of fit: the distance of numbers from their expected distribution."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats
from torch import Tensor

QUANTILES = 10_000  # of the distribution; the Wasserstein distance is accurate to 1 / 40,000 of its width


class GoodnessOfFit(NamedTuple):
    """The distance of n numbers from a distribution.

    Attributes:
        wasserstein: Wasserstein distance of order 1, in the units of the numbers.
        ks: Kolmogorov-Smirnov statistic in [0, 1]; on a circle Kuiper's. None if the distribution is a point.
        critical: its 95 % critical value.
        p: its p-value.
    """

    wasserstein: float
    ks: float | None = None
    critical: float | None = None
    p: float | None = None


def distance_to_uniform(
    values: Float[Tensor, " n"], low: float, high: float, period: float | None = None
) -> GoodnessOfFit:
    r"""The distance of numbers from the uniform distribution on [low, high], a point if low = high.

    .. math:: W_1 = \int |F_n - F|, \quad D = \sup |F_n - F|

    Args:
        values: the numbers.
        low, high: ends of the range.
        period: period of numbers on a circle, such as 2 pi for phases.

    Source: Kolmogorov-Smirnov: Marsaglia, Tsang, Wang 2003, 10.18637/jss.v008.i18; on a circle:
        :func:`wasserstein_on_circle` and :func:`kuiper`.
    """
    x = values.double().cpu().numpy() - low
    width = high - low
    if period is not None:
        return _on_circle(x % period, width, period)
    if width == 0:
        return GoodnessOfFit(float(np.abs(x).mean()))
    uniform = stats.uniform(0, width)
    found = stats.kstest(x, uniform.cdf)
    quantiles = uniform.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES)
    critical = float(stats.kstwo.ppf(0.95, len(x)))
    return GoodnessOfFit(
        float(stats.wasserstein_distance(x, quantiles)), float(found.statistic), critical, float(found.pvalue)
    )


def _on_circle(x: np.ndarray, width: float, period: float) -> GoodnessOfFit:
    """Compute the distance on a circle, of x in [0, period) from the uniform on [0, width], which may wrap around."""
    if width == 0:
        return GoodnessOfFit(float(np.minimum(x, period - x).mean()))
    quantiles = width * (np.arange(QUANTILES) + 0.5) / QUANTILES % period
    turns, rest = divmod(width, period)
    ks, critical, p = kuiper((turns * x + np.minimum(x, rest)) / width)
    return GoodnessOfFit(wasserstein_on_circle(x, quantiles, period), ks, critical, p)


def wasserstein_on_circle(x: np.ndarray, y: np.ndarray, period: float) -> float:
    r"""The Wasserstein distance of order 1 between numbers (n,) and (m,) on a circle.

    .. math:: W_1 = \min_c \int_0^T |F(u) - G(u) - c|\, du, \text{ attained where } c \text{ is a median of } F - G

    Source: Rabin, Delon, Gousseau 2011, Transportation distances on the circle, 10.1007/s10851-011-0284-0.
    """
    x, y = np.sort(x), np.sort(y)
    places = np.concatenate([x, y, [0.0]])
    places.sort()
    lengths = np.diff(places, append=period)
    difference = np.searchsorted(x, places, "right") / len(x) - np.searchsorted(y, places, "right") / len(y)
    order = np.argsort(difference)
    middle = np.searchsorted(lengths[order].cumsum(), period / 2)
    return float((lengths * np.abs(difference - difference[order[middle]])).sum())


def kuiper(u: np.ndarray) -> tuple[float, float, float]:
    r"""Kuiper's statistic, its 95 % critical value and its p-value, for numbers (n,) against the uniform on [0, 1].

    .. math:: V = \max_i (i / n - u_i) + \max_i (u_i - (i - 1) / n), \quad
              p = 2 \sum_{j \ge 1} (4 j^2 v^2 - 1) e^{-2 j^2 v^2}, \quad v = (\sqrt n + 0.155 + 0.24 / \sqrt n) V

    It does not depend on the origin of the circle. The p-value is accurate for n >= 10.

    Source: Kuiper 1960, Tests concerning random points on a circle; Stephens 1970, Journal of the Royal Statistical
        Society B 32, 115.
    """
    u, n = np.sort(u), len(u)
    steps = np.arange(1, n + 1) / n
    statistic = float((steps - u).max() + (u - steps + 1 / n).max())
    scale = math.sqrt(n) + 0.155 + 0.24 / math.sqrt(n)
    return statistic, 1.747 / scale, kuiper_tail(scale * statistic)


def kuiper_tail(v: float) -> float:
    """The p-value of Kuiper's scaled statistic."""
    squares = (np.arange(1, 101) * v) ** 2
    # For smaller v the series converges slowly, to 1 to eight digits.
    return float(2 * ((4 * squares - 1) * np.exp(-2 * squares)).sum()) if v > 0.4 else 1.0

"""Means, deviations and marks against numbers computed by hand, by numpy and by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from src.statistics.significance import Estimate, best, decimals, differ, format_number, wilson_interval

pytestmark = pytest.mark.strength(1)


@pytest.mark.parametrize("values", [(1.0, 3.0), (0.1, 0.2, 0.6), (5.0, 5.0, 5.0, 7.0)])
def test_mean_and_sample_deviation_over_seeds(values):
    e = Estimate(values)
    assert e.mean == pytest.approx(np.mean(values)) and e.std == pytest.approx(np.std(values, ddof=1))
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert e.interval == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("e", "said"),
    [
        (Estimate((0.204, 0.21)), "0.2070 ± 0.0042"),
        (Estimate((1234.5, 1250.25)), "1242 ± 11"),
        (Estimate((50.0, 50.0)), "50"),
        (Estimate((1.9,), 1.2, 2.4), "1.9 [1.2, 2.4]"),
        (Estimate((1.913,), 1.8876, 1.9412), "1.913 [1.888, 1.941]"),
        (Estimate((0.107,)), "0.1070"),
        (Estimate((1611844.0,)), "1,611,844"),
        (Estimate((1117.3,)), "1,117"),
        (Estimate((math.inf,)), "inf"),
    ],
)
def test_as_many_digits_as_the_noise_leaves(e, said):
    assert str(e) == said


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"), (-3.0, "-3"), (12.345, "12.35"), (0.0123456, "0.01235"), (999.96, "1000."), (1000.4, "1,000"),
        (-1234.6, "-1,235"), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_numbers(value, shown):
    assert format_number(value) == shown


def test_decimals():
    assert [decimals(spread) for spread in (0.0123, 0.1, 1.0, 9.9, 10.0, 140, math.inf, math.nan)] == [
        3,
        2,
        1,
        1,
        0,
        0,
        0,
        0,
    ]


def test_welch_by_hand():
    """t = (1 - 2) / sqrt(0.01/3 + 0.09/4) = -6.22 with 3.86 degrees of freedom: p = 0.0038."""
    a, b = Estimate((0.9, 1.0, 1.1)), Estimate((1.7, 1.9, 2.0, 2.4))
    t = (a.mean - b.mean) / math.sqrt(a.std**2 / 3 + b.std**2 / 4)
    u, v = a.std**2 / 3, b.std**2 / 4
    freedom = (u + v) ** 2 / (u**2 / 2 + v**2 / 3)
    p = 2 * stats.t.cdf(t, freedom)
    assert p == pytest.approx(stats.ttest_ind(a.values, b.values, equal_var=False).pvalue)
    assert p < 0.05 and differ(a, b) and differ(b, a)


@pytest.mark.parametrize("shift", np.linspace(0, 3, 13))
@pytest.mark.parametrize("n", [2, 3, 5])
def test_welch_is_that_of_scipy(shift, n):
    rng = np.random.default_rng(n)
    a, b = rng.normal(0, 1, n), rng.normal(shift, 0.5, n + 1)
    expected = stats.ttest_ind(a, b, equal_var=False).pvalue < 0.05
    assert differ(Estimate(tuple(a)), Estimate(tuple(b))) == expected


@pytest.mark.parametrize(
    ("estimates", "better", "marked"),
    [
        # Intervals that touch, and that do not.
        ([Estimate((1.0,), 0.8, 1.2), Estimate((2.0,), 1.1, 2.9)], "lower", None),
        ([Estimate((1.0,), 0.8, 1.2), Estimate((2.0,), 1.3, 2.7)], "lower", 0),
        ([Estimate((1.0,), 0.8, 1.2), Estimate((2.0,), 1.3, 2.7)], "higher", 1),
        ([Estimate((1.0,), 0.8, 1.2), Estimate((2.0,), 1.3, 2.7)], None, None),
        # It beats the second but not the noisy third.
        ([Estimate((1.0,), 0.9, 1.1), Estimate((2.0,), 1.9, 2.1), Estimate((3.0,), 1.0, 5.0)], "lower", None),
        # Noise that is not known marks nothing.
        ([Estimate((1.0,)), Estimate((2.0,))], "lower", None),
        ([Estimate((1.0, 1.1)), Estimate((2.0,))], "lower", None),
        ([Estimate((1.0, 1.0)), Estimate((2.0, 2.0))], "lower", None),
        # Seeds against a single run with an interval: the interval of the mean of two is wide.
        ([Estimate((1.0, 1.2)), Estimate((2.0,), 1.9, 2.1)], "lower", None),
        ([Estimate((1.0, 1.01)), Estimate((2.0,), 1.9, 2.1)], "lower", 0),
        # Alone, or with nothing beside it.
        ([Estimate((1.0,), 0.8, 1.2)], "lower", None),
        ([Estimate((1.0,), 0.8, 1.2), None], "lower", None),
        ([Estimate((math.nan,), 0.8, 1.2), Estimate((1.0,), 0.9, 1.1), Estimate((2.0,), 1.9, 2.1)], "lower", 1),
    ],
)
def test_what_is_marked(estimates, better, marked):
    assert best(estimates, better) == marked


def test_noise_alone_is_rarely_marked():
    """Rows of one and the same law, three seeds each: at most one table in twenty marks one, however many rows."""
    rng = np.random.default_rng(0)
    for rows in (2, 5):
        tables = (list(map(Estimate, map(tuple, rng.normal(size=(rows, 3))))) for _ in range(400))
        assert np.mean([best(table, "lower") is not None for table in tables]) < 0.07


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (5, 10), (10, 10), (480, 1000)])
def test_wilsons_interval_by_its_formula(hits, n):
    p, z2 = hits / n, 1.959964**2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    margin = (z2 * (p * (1 - p) / n + z2 / (4 * n**2))) ** 0.5 / (1 + z2 / n)
    low, high = wilson_interval(hits, n)
    assert (low, high) == pytest.approx((middle - margin, middle + margin), abs=1e-6)

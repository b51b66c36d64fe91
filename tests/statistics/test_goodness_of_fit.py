"""Distances of numbers to a law, against closed forms, scipy and simulation."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import linear_sum_assignment

from src.statistics.goodness_of_fit import distance_to_uniform, kuiper, kuiper_tail, wasserstein_on_circle

TURN = 2 * math.pi


def rand(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


def even(n, low=0.0, high=1.0):
    """n numbers as evenly spread as can be."""
    return low + (high - low) * (torch.arange(n, dtype=torch.float64) + 0.5) / n


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (1.0, 3.0), (-2.0, 0.5)])
@pytest.mark.parametrize("shift", [0.0, 0.1, -0.25])
def test_a_shift(low, high, shift):
    """All numbers move by it, and the distribution functions are it over the width apart."""
    found = distance_to_uniform(even(4000, low, high) + shift, low, high)
    assert found.wasserstein == pytest.approx(abs(shift), abs=1e-3)
    assert found.ks == pytest.approx(abs(shift) / (high - low), abs=1e-3)


def test_a_narrower_law():
    """Uniform on the middle half: W1 is the mean of |u - 1/2| / 2, and the functions are 1/4 apart."""
    found = distance_to_uniform(even(4000, 0.25, 0.75), 0, 1)
    assert found.wasserstein == pytest.approx(1 / 8, abs=1e-3) and found.ks == pytest.approx(1 / 4, abs=1e-3)


def test_against_scipy():
    x = 1 + 2 * rand(300) ** 1.2
    found, oracle = distance_to_uniform(x, 1, 3), stats.ks_1samp(x.numpy(), stats.uniform(1, 2).cdf, method="exact")
    assert found.ks == pytest.approx(oracle.statistic, rel=1e-6) and found.p == pytest.approx(oracle.pvalue, rel=1e-4)
    u = np.linspace(1, 3, 200_001)
    functions = np.searchsorted(np.sort(x.numpy()), u, "right") / 300 - (u - 1) / 2
    assert found.wasserstein == pytest.approx(np.abs(functions).mean() * 2, abs=5e-5)


@pytest.mark.parametrize("period", [None, TURN])
def test_a_point(period):
    """The mean distance from it; round the circle where that is shorter."""
    found = distance_to_uniform(torch.tensor([0.1, -0.3, 2.0]) + 5, 5.0, 5.0, period)
    assert found.wasserstein == pytest.approx(0.8) and found[1:] == (None, None, None)
    far = distance_to_uniform(torch.tensor([5.0]), 0.0, 0.0, period)
    assert far.wasserstein == pytest.approx(5.0 if period is None else TURN - 5)


@pytest.mark.parametrize("period", [None, TURN])
def test_one_in_twenty_true_sets_is_beyond_the_critical_value(period):
    g = torch.Generator().manual_seed(0)
    sets = TURN * torch.rand(120, 30, generator=g, dtype=torch.float64)
    found = [distance_to_uniform(x, 0, TURN, period) for x in sets]
    beyond = [d.ks > d.critical for d in found]
    assert beyond == [d.p < 0.05 for d in found]
    assert np.mean(beyond) == pytest.approx(0.05, abs=0.045)


# ---- circles ----


@pytest.mark.parametrize(("n", "m"), [(1, 1), (7, 7), (4, 8)])
def test_on_a_circle_it_is_the_cheapest_assignment(n, m):
    x, y = 5 * rand(n).numpy(), 5 * rand(m, 1)[:, 0].numpy()
    a = x.repeat(m // n)
    cost = np.abs(a[:, None] - y)
    cost = np.minimum(cost, 5 - cost)
    expected = cost[linear_sum_assignment(cost)].mean()
    assert wasserstein_on_circle(x, y, 5.0) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("turn", [0.0, 1.0, 4.0])
def test_where_the_circle_begins_is_nothing(turn):
    x = TURN * rand(50) ** 1.5
    found = distance_to_uniform(x, 0, TURN, TURN)
    turned = distance_to_uniform(x + turn + 3 * TURN, turn, turn + TURN, TURN)
    assert turned == pytest.approx(found, abs=1e-9)
    assert kuiper((x.numpy() + turn) % TURN / TURN)[0] == pytest.approx(found.ks)


def test_half_of_a_circle():
    """Each half of the points has to move a quarter of the half circle on average; the functions are 1/2 apart."""
    found = distance_to_uniform(even(4000, 0, math.pi), 0, TURN, TURN)
    assert found.wasserstein == pytest.approx(math.pi / 4, abs=2e-3) and found.ks == pytest.approx(0.5, abs=1e-3)
    within = distance_to_uniform(even(4000, 0, math.pi), 0, math.pi, TURN)
    assert within.wasserstein < 1e-3 and within.ks < 1e-3


def test_a_law_that_goes_round_twice_and_a_half():
    x = even(5000, 1.0, 1 + 2.5 * TURN)
    found = distance_to_uniform(x, 1.0, 1 + 2.5 * TURN, TURN)
    assert found.wasserstein < 1e-3 and found.ks < 1e-3
    assert distance_to_uniform(x, 0, TURN, TURN).ks > 0.05


def test_kuiper_of_the_literature():
    """Its 95 % and 99 % points for large n, and the exact least one: n numbers that are evenly spread."""
    n = 10**6
    assert kuiper(even(n).numpy())[0] == pytest.approx(1 / n)
    x = even(n).numpy()
    for v, p in ((1.747, 0.05), (2.001, 0.01)):
        statistic, _, found = kuiper(np.clip(x * (1 - v / math.sqrt(n)), 0, 1))
        assert statistic * math.sqrt(n) == pytest.approx(v, abs=2e-3) and found == pytest.approx(p, abs=5e-4)


@pytest.mark.parametrize("v", [0.0, 0.01, 0.2, 0.39, 0.41])
def test_kuiper_of_nearly_none(v):
    """To eight digits, also where the terms of the series are many."""
    assert kuiper_tail(v) == pytest.approx(1, abs=1e-7)


def test_kuiper_of_any_is_its_series():
    for v in (0.5, 0.8, 1.3, 2.0):
        terms = [(4 * j**2 * v**2 - 1) * math.exp(-2 * j**2 * v**2) for j in range(1, 50)]
        assert kuiper_tail(v) == pytest.approx(2 * sum(terms), rel=1e-12)


def test_kuiper_of_two_numbers_by_hand():
    """0.4 above and 0.3 below the line, in units of sqrt(2) + 0.155 + 0.24 / sqrt(2)."""
    statistic, critical, p = kuiper(np.array([0.6, 0.3]))
    scale = 1.738919
    assert statistic == pytest.approx(0.7) and critical == pytest.approx(1.747 / scale, rel=1e-6)
    assert p == pytest.approx(kuiper_tail(0.7 * scale), rel=1e-5)

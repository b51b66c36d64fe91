"""The energy distance against its definition, the permutation test against its promise, and Holm's adjustment."""

from itertools import combinations

import pytest
import torch
from scipy.stats import binom

from src.statistics.two_sample import energy_test, holm

pytestmark = pytest.mark.strength(1)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def definition(x, y):
    """2 E|x - y| - E|x - x'| - E|y - y'|, over pairs of different samples."""

    def mean(a, b, itself):
        return sum((p - q).norm().item() for p in a for q in b) / (len(a) * (len(b) - itself))

    return 2 * mean(x, y, 0) - mean(x, x, 1) - mean(y, y, 1)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (3, 7)])
def test_the_distance_is_that_of_the_definition(n, m):
    x, y = torch.randn(n, 3, generator=gen()), 1 + torch.randn(m, 3, generator=gen(1))
    assert energy_test(x, y, 5, gen()).distance == pytest.approx(definition(x, y), abs=1e-5)


def test_p_is_the_share_of_all_assignments():
    """Of 3 + 4 numbers there are 35, of which all are met by many permutations."""
    x, y = torch.tensor([[0.0], [1.0], [2.5]]), torch.tensor([[2.0], [4.0], [5.0], [9.0]])
    both, observed = torch.cat([x, y]), definition(x, y)
    every = []
    for chosen in combinations(range(7), 3):
        rest = [i for i in range(7) if i not in chosen]
        every.append(definition(both[list(chosen)], both[rest]))
    exact = sum(d >= observed - 1e-6 for d in every) / len(every)
    found = energy_test(x, y, 20_000, gen())
    assert found.p == pytest.approx(exact, abs=0.006)
    assert sum(d > found.limit + 1e-6 for d in every) / len(every) <= 0.06


@pytest.mark.parametrize("strata", [False, True])
def test_false_alarms_are_as_rare_as_said(strata):
    """Of skewed numbers with ties; with strata also where the shares of these differ."""
    g, found = gen(), []
    for _ in range(200):
        a, b = torch.randint(2, (14,), generator=g), torch.randint(4, (25,), generator=g) // 3
        x, y = ((5.0 * s[:, None] + torch.randn(len(s), 2, generator=g).exp().round(decimals=1)) for s in (a, b))
        if not strata:
            y = y + 5 * (torch.randint(2, (25, 1), generator=g) - b[:, None])
        found.append(energy_test(x, y, 99, g, (a, b) if strata else None, resamples=2).p)
    p = torch.tensor(found)
    for level in (0.05, 0.2):
        assert (p <= level).sum() <= binom.ppf(0.999, len(p), level)
    assert (p <= 0.5).float().mean() > 0.4  # it is not only cautious


def test_a_difference_within_strata_is_found():
    a, b = torch.arange(60) % 3, torch.arange(90) % 3
    x, y = (3.0 * s[:, None] + torch.randn(len(s), 4, generator=gen(len(s))) for s in (a, b))
    assert energy_test(x + 1, y, 199, gen(), (a, b)).p == 1 / 200
    assert energy_test(x, y, 199, gen(), (a, b)).p > 0.01


def test_strata_of_one_side_are_left_out():
    a, b = torch.tensor([0] * 5 + [1] * 5), torch.zeros(6)
    x, y = torch.randn(10, 2, generator=gen()), torch.randn(6, 2, generator=gen(1))
    assert energy_test(x, y, 9, gen(), (a, b)).distance == pytest.approx(definition(x[:5], y), abs=1e-5)
    with pytest.raises(ValueError, match="common stratum"):
        energy_test(x, y, 9, gen(), (a + 1, b))


def test_equal_vectors_never_differ():
    x = torch.ones(20, 3)
    assert energy_test(x, x[:8], 50, gen()).p == 1


def test_the_interval_holds_the_distance():
    """Of normal numbers a unit apart, whose distance is known: 2 E|d + sqrt(2) z| - 4 / sqrt(pi)."""
    z = torch.randn(2_000_000, generator=gen(), dtype=torch.float64)
    truth = (2 * (1 + 2**0.5 * z).abs().mean() - 2 * 2 / torch.pi**0.5).item()
    g = gen(3)
    hits = 0
    for _ in range(100):
        found = energy_test(1 + torch.randn(60, 1, generator=g), torch.randn(90, 1, generator=g), 1, g)
        hits += found.low <= truth <= found.high
    assert 85 <= hits <= 99


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []

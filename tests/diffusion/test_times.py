import math

import pytest
import torch
from torch.testing import assert_close

from src.diffusion.times import DiscreteUniform, Stratified, Uniform


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def kolmogorov_smirnov(t, low, high):
    """The largest distance between the empirical distribution and the uniform one, in units of 1 / sqrt(n)."""
    u = ((t - low) / (high - low)).sort().values
    n = len(u)
    rank = torch.arange(1, n + 1).double() / n
    return math.sqrt(n) * max((rank - u).max(), (u - rank + 1 / n).max())


@pytest.mark.parametrize("make", [Uniform, Stratified])
@pytest.mark.parametrize("t_min", [1e-5, 0.25])
def test_uniform(make, t_min):
    t = make(t_min)(20_000, generator())
    assert t.dtype == torch.float64
    assert t_min <= t.min() <= t_min + 1e-3
    assert 1 - 1e-3 <= t.max() <= 1
    assert kolmogorov_smirnov(t, t_min, 1) < 1.95  # exceeded once in a thousand


def test_each_stratified_time_is_uniform():
    draws = torch.stack([Stratified(1e-9)(5, generator(seed)) for seed in range(2000)])
    for column in draws.T:
        assert kolmogorov_smirnov(column, 0, 1) < 1.95


@pytest.mark.parametrize("n", [1, 2, 7, 128])
@pytest.mark.parametrize("seed", range(20))
def test_stratified_covers_each_stratum_once(n, seed):
    t = Stratified(0.1)(n, generator(seed)).sort().values
    stratum = (t - 0.1) / 0.9 * n
    assert torch.equal(stratum.floor(), torch.arange(n).double())
    assert_close(t.diff(), torch.full((n - 1,), 0.9 / n).double(), rtol=0, atol=1e-7)


@pytest.mark.parametrize(("make", "variance"), [(Uniform, 1 / 12 / 64), (Stratified, 1 / 12 / 64**2)])
def test_variance_of_the_mean_of_a_batch(make, variance):
    """1 / (12 n) for independent times, 1 / (12 n^2) for stratified ones; five standard errors of the estimate."""
    means = torch.stack([make()(64, generator(seed)).mean() for seed in range(1000)])
    assert_close(means.var(), torch.tensor(variance).double(), rtol=5 * (2 / 1000) ** 0.5, atol=0)


@pytest.mark.parametrize("steps", [1, 10, 1000])
def test_discrete_lies_on_the_nodes(steps):
    n = 20_000
    t = DiscreteUniform(steps)(n, generator())
    k = (t * steps).round()
    assert torch.equal(t, k / steps)
    counts = torch.bincount(k.long(), minlength=steps + 1)
    assert counts[0] == 0
    assert counts.sum() == n
    # Chi-squared with steps - 1 degrees of freedom: mean steps - 1, variance twice that.
    chi_2 = ((counts[1:] - n / steps) ** 2 / (n / steps)).sum()
    assert abs(chi_2 - (steps - 1)) <= 4 * math.sqrt(2 * (steps - 1))


@pytest.mark.parametrize("times", [Uniform(), Stratified(), DiscreteUniform()])
def test_deterministic(times):
    torch.manual_seed(1)
    first = times(16, generator(3))
    torch.manual_seed(2)
    assert torch.equal(first, times(16, generator(3)))
    assert not torch.equal(first, times(16, generator(4)))
    g = generator(3)
    assert not torch.equal(times(16, g), times(16, g))

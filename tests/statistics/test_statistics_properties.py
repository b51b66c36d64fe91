"""Distances and intervals of any samples."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.statistics.frechet import Moments, frechet
from src.statistics.significance import wilson_interval
from src.statistics.sliced_wasserstein import SlicedWassersteinDistance, random_directions
from tests.helpers.properties import examples

sizes = st.tuples(st.integers(1, 4), st.integers(2, 30), st.integers(2, 30), st.integers(0, 999))


def drawn(sizes):
    """Two sets of samples, of other means and covariances, and a random rotation."""
    d, n, m, seed = sizes
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(2, d, d, generator=g, dtype=torch.float64)
    x, y = (torch.randn(k, d, generator=g, dtype=torch.float64) @ a for k, a in zip((n, m), mix, strict=True))
    rotation, _ = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64))
    return x, y + torch.randn(d, generator=g, dtype=torch.float64), rotation


def moments(x):
    return Moments(x.mean(0), torch.cov(x.T).reshape(x.shape[1], x.shape[1]))


@given(sizes=sizes, scale=st.floats(0.1, 10), shift=st.floats(-100, 100))
@examples(2)
def test_frechet_distance(sizes, scale, shift):
    """Symmetric, zero on itself, the same wherever both lie, and squared with the scale."""
    x, y, rotation = drawn(sizes)
    a, b = moments(x), moments(y)
    found, size = frechet(a, b), float(a.cov.trace() + b.cov.trace() + (a.mean - b.mean).square().sum())
    # Roots of eigenvalues that are zero up to rounding.
    error = 1e-6 * size
    assert found >= -error and abs(frechet(a, a)) < 1e-6 * float(a.cov.trace())
    assert abs(frechet(b, a) - found) < error
    moved = frechet(moments(x @ rotation * scale + shift), moments(y @ rotation * scale + shift))
    assert abs(moved - scale**2 * found) < scale**2 * error + 1e-9 * shift**2


@given(values=st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 5), st.floats(-5, 5), st.floats(0, 5)), min_size=1))
def test_frechet_distance_of_independent_elements(values):
    """The closed form: that of the means and the standard deviations."""
    mean_a, std_a, mean_b, std_b = torch.tensor(values, dtype=torch.float64).T
    a, b = Moments(mean_a, torch.diag(std_a**2)), Moments(mean_b, torch.diag(std_b**2))
    expected = float(((mean_a - mean_b) ** 2 + (std_a - std_b) ** 2).sum())
    assert frechet(a, b) == pytest.approx(expected, abs=1e-6 * (1 + float((std_a**2 + std_b**2).sum())))


def sliced(x, y, directions):
    metric = SlicedWassersteinDistance(directions)
    metric.update(x, real=True)
    metric.update(y, real=False)
    return float(metric.compute())


@given(sizes=sizes, scale=st.floats(0.1, 10), shift=st.floats(-10, 10))
def test_sliced_wasserstein_distance(sizes, scale, shift):
    """A distance, in the units of the data, of where the samples lie beside each other and not of their order."""
    x, y, rotation = drawn(sizes)
    z = x.flip(0) * 0.5 + 1
    directions = random_directions(sizes[0], 16, torch.Generator().manual_seed(sizes[3]))
    found = sliced(x, y, directions)
    error = 1e-5 * float(x.abs().max() + y.abs().max() + 1)
    assert sliced(x, x.flip(0), directions) < error
    assert abs(sliced(y, x, directions) - found) < error
    assert found <= sliced(x, z, directions) + sliced(z, y, directions) + error, "the triangle inequality"
    moved = sliced(x * scale + shift, y * scale + shift, directions)
    assert abs(moved - scale * found) < scale * error + 1e-5 * abs(shift)
    turned = sliced(x @ rotation, y @ rotation, (rotation.T @ directions.double()).float())
    assert abs(turned - found) < error
    twice = sliced(torch.cat([x, x]), y, directions)
    assert abs(twice - found) < error, "of the law of the samples, not of their number"


@given(n=st.integers(1, 10_000), share=st.floats(0, 1))
def test_wilsons_interval(n, share):
    """Within [0, 1], around the share, higher for more hits, and shorter for more trials of the same share."""
    hits = round(share * n)
    low, high = wilson_interval(hits, n)
    assert 0 <= low <= hits / n <= high <= 1
    if hits < n:
        more = wilson_interval(hits + 1, n)
        assert more[0] > low and more[1] > high - 1e-12
    longer = wilson_interval(4 * hits, 4 * n)
    assert longer[1] - longer[0] < high - low
    assert wilson_interval(n - hits, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)

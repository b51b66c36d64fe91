"""The Fréchet distance against closed forms, scipy and torchmetrics."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from src.metrics.distances import frechet_distance as with_torchmetrics
from src.statistics.frechet import Moments, frechet, frechet_interval

pytestmark = pytest.mark.strength(1)


def draws(n: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=g) / d**0.5
    return scale * torch.randn(n, d, generator=g) @ mix + shift


def by_scipy(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.double().numpy(), b.double().numpy()
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * sqrtm(s @ t).real))


@pytest.mark.parametrize("d", [2, 8, 64])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (2.0, 0.5), (0.1, -3.0)])
def test_it_is_that_of_scipy_and_of_torchmetrics(d, scale, shift):
    a, b = draws(400, d, 1), draws(300, d, 2, scale, shift)
    expected = by_scipy(a, b)
    assert frechet(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-6)
    assert with_torchmetrics(a, b) == pytest.approx(expected, rel=1e-4)
    assert frechet(Moments.of(b), Moments.of(a)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("d", [1, 5])
def test_of_two_gaussians_it_is_the_closed_form(d):
    """N(0, I) and N(m, s^2 I): D (m^2 + (1 - s)^2)."""
    zero, one = torch.zeros(d).double(), torch.eye(d).double()
    assert frechet(Moments(zero, one), Moments(zero + 0.7, 9 * one)) == pytest.approx(d * (0.49 + 4))


def test_equal_samples_are_at_no_distance():
    x = draws(200, 6, 3)
    assert abs(frechet(Moments.of(x), Moments.of(x))) < 1e-9


def test_a_covariance_of_lower_rank_is_no_trouble():
    x, y = draws(5, 16, 4), draws(5, 16, 5)
    assert frechet(Moments.of(x), Moments.of(y)) == pytest.approx(by_scipy(x, y), rel=1e-4)


def test_the_interval_holds_the_distance_of_other_samples():
    """Of forty other samples from the same law, nearly all; and it becomes narrower as their number grows."""
    real = Moments.of(draws(20000, 4, 6))
    law = draws(50000, 4, 7, scale=1.1, shift=0.1)
    widths = []
    for n in (200, 1600):
        low, high = frechet_interval(real, law[:n], 200, torch.Generator().manual_seed(0))
        widths.append(high - low)
        others = [frechet(real, Moments.of(law[i * n : (i + 1) * n])) for i in range(1, 31)]
        assert sum(low <= other <= high for other in others) >= 22
    # Both ends fall as 1 / sqrt(n), or faster.
    assert widths[1] < widths[0] / 2


def test_the_interval_of_many_is_that_of_some_scaled(monkeypatch):
    real, x = Moments.of(draws(900, 4, 0)), draws(800, 4, 0, shift=0.5)
    full = frechet_interval(real, x, 300, torch.Generator().manual_seed(0))
    monkeypatch.setattr("src.statistics.frechet.MAX_BOOTSTRAP", 200)
    low, high = frechet_interval(real, x, 300, torch.Generator().manual_seed(0))
    assert high - low == pytest.approx(full[1] - full[0], rel=0.25)
    assert low < frechet(real, Moments.of(x)) < high


def test_moments_of_single_precision_are_computed_in_double():
    x = draws(300, 4, 8, shift=100.0)
    for found, expected in zip(Moments.of(x), Moments.of(x.double()), strict=True):
        assert found.dtype == torch.float64 and torch.equal(found, expected)

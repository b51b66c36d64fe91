"""Precision, recall, density and coverage by brute force, and where they are known."""

import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from src.statistics.neighbors import mean_distance, prdc


def draws(n: int, d: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def brute_force(real, fake, k):
    """As the papers define them, with scikit-learn's neighbors."""
    radius = [NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x)[0][:, k] for x in (real, fake)]
    near = [[(real[i] - fake[j]).norm().item() for j in range(len(fake))] for i in range(len(real))]
    m, n = range(len(real)), range(len(fake))
    return (
        sum(any(near[i][j] <= radius[0][i] for i in m) for j in n) / len(n),
        sum(any(near[i][j] <= radius[1][j] for j in n) for i in m) / len(m),
        sum(near[i][j] <= radius[0][i] for i in m for j in n) / (k * len(n)),
        sum(any(near[i][j] <= radius[0][i] for j in n) for i in m) / len(m),
    )


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize(("m", "n"), [(40, 40), (60, 25)])
def test_by_brute_force(m, n, k):
    real, fake = draws(m), 0.8 * draws(n, seed=1) + 0.3
    found = [each.mean().item() for each in prdc(real, fake, k)]
    assert found == pytest.approx(brute_force(real, fake, k))


def test_more_than_one_chunk(monkeypatch):
    real, fake = draws(50), draws(40, seed=1)
    whole = prdc(real, fake)
    monkeypatch.setattr("src.statistics.neighbors.CHUNK", 7)
    assert all(torch.equal(a, b) for a, b in zip(whole, prdc(real, fake), strict=True))


def test_what_is_far_away_is_neither_real_nor_covered():
    assert [each.mean().item() for each in prdc(draws(50), draws(50, seed=1) + 100)] == [0, 0, 0, 0]


def test_one_mode_of_two_is_precise_and_lacks_recall():
    two = torch.cat([draws(100), draws(100, seed=1) + 50])
    found = prdc(two, draws(200, seed=2))
    assert found.precision.mean() > 0.9
    assert found.recall.mean() <= 0.5
    assert found.coverage[100:].sum() == 0


def test_too_few_are_refused():
    with pytest.raises(ValueError, match=r"at least k \+ 1 = 6 samples"):
        prdc(draws(5), draws(50))


@pytest.mark.parametrize("n", [50, 2000])
def test_the_mean_distance_of_normal_numbers(n):
    """On a line it is 2 / sqrt(pi), and the standard error is honest."""
    mean, error = mean_distance(draws(n, 1, seed=3))
    assert abs(mean - 2 / torch.pi**0.5) < 3 * error
    others = torch.tensor([mean_distance(draws(n, 1, seed=s))[0] for s in range(30)])
    assert 0.6 < others.std() / error < 1.6


def test_a_mean_of_distances_is_computed_in_double():
    x = draws(50) + 1000
    assert mean_distance(x) == mean_distance(x.double())

"""The sliced Wasserstein distance against closed forms and brute force."""

from math import lcm

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from src.statistics.sliced_wasserstein import SlicedWassersteinDistance, random_directions, squared_distances

pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")


def directions(dim: int, projections: int = 128, seed: int = 0) -> torch.Tensor:
    return random_directions(dim, projections, torch.Generator().manual_seed(seed))


def distance(x: torch.Tensor, y: torch.Tensor, projections: int = 128, seed: int = 0) -> float:
    metric = SlicedWassersteinDistance(directions(x[0].numel(), projections, seed))
    metric.update(x, real=True)
    metric.update(y, real=False)
    return metric.compute().item()


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def repeated(x: np.ndarray, n: int) -> np.ndarray:
    """The same distribution as n samples."""
    return x.repeat(n // len(x), axis=0)


# ---- brute force ----


@pytest.mark.parametrize(("n", "m"), [(1, 1), (20, 20), (6, 4), (5, 7), (1, 9)])
def test_on_a_line_it_is_the_cheapest_assignment(n, m):
    """Over all ways to pair the samples, each repeated so that both sets are equally large."""
    x, y = draws(n, 1, seed=1), 2 * draws(m, 1, seed=2) + 0.3
    a, b = (repeated(v.double().numpy(), lcm(n, m)) for v in (x, y))
    cost = (a - b.T) ** 2
    assert distance(x, y) == pytest.approx(cost[linear_sum_assignment(cost)].mean() ** 0.5, rel=1e-5)


@pytest.mark.parametrize(("n", "m", "shape"), [(30, 30, (2,)), (12, 18, (3,)), (12, 18, (1, 4)), (10, 15, (2, 3, 4))])
def test_elsewhere_it_is_the_mean_over_its_directions(n, m, shape):
    x, y = draws(n, *shape, seed=1), draws(m, *shape, seed=2) + 0.5
    vectors = directions(int(np.prod(shape)), 16, 3).double().numpy()
    a, b = (repeated(np.sort(v.double().numpy().reshape(len(v), -1) @ vectors, 0), lcm(n, m)) for v in (x, y))
    expected = ((a - b) ** 2).mean() ** 0.5
    assert distance(x, y, projections=16, seed=3) == pytest.approx(expected, rel=1e-5)


# ---- closed forms ----


def test_two_atoms_of_unequal_mass():
    """A share |p - q| moves by 1: what finding the right weights of modes comes down to."""
    x, y = torch.tensor([0.0, 0, 0, 1])[:, None], torch.tensor([0.0, 1])[:, None]
    assert distance(x, y) == pytest.approx(0.25**0.5, abs=1e-6)


def test_a_shift_is_felt_along_it():
    """SW^2 = mean (theta m)^2, which is near |m|^2 / d."""
    x, m = draws(500, 3), torch.tensor([1.0, -2.0, 0.5])
    along = (m @ directions(3, 2000)).square()
    assert distance(x, x + m, projections=2000) == pytest.approx(along.mean().sqrt().item(), rel=1e-4)
    assert abs(along.mean() - m.square().sum() / 3) < 5 * along.std() / 2000**0.5


@pytest.mark.most(1)
@pytest.mark.parametrize("sizes", [(20000, 20000), (20000, 15000)])
def test_two_gaussians(sizes):
    """N(0, s^2 I) and N(m, r^2 I): SW^2 = mean (theta m)^2 + (s - r)^2, up to the error of the samples.

    Along a direction, the mean is off by sqrt((s^2 + r^2) / n), and the standard deviation by 0.7 of that.
    """
    m, s, r = torch.tensor([0.6, 0.8]), 1.0, 1.5
    x, y = s * draws(sizes[0], 2, seed=1), r * draws(sizes[1], 2, seed=2) + m
    along = (m @ directions(2)).square().mean().item()
    expected = (along + (s - r) ** 2) ** 0.5
    assert abs(distance(x, y) - expected) < 5 * ((s**2 + r**2) / min(sizes)) ** 0.5


def test_equal_sets_are_not_apart():
    x = draws(100, 1, 5)
    assert distance(x, x) == 0
    assert distance(x, x[torch.randperm(100)]) == pytest.approx(0, abs=1e-6)
    assert distance(x, torch.cat([x, x, x])) == pytest.approx(0, abs=1e-6), "the same distribution, three times as many"


def test_scale_and_symmetry():
    x, y = draws(50, 4, seed=1), draws(70, 4, seed=2) + 1
    assert distance(7 * x, 7 * y) == pytest.approx(7 * distance(x, y), rel=1e-5)
    assert distance(y, x) == pytest.approx(distance(x, y), rel=1e-5)
    shift = torch.tensor([3.0, -1.0, 2.0, 0.0])
    assert distance(x + shift, y + shift) == pytest.approx(distance(x, y), rel=1e-4)


# ---- directions ----


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_directions_are_uniform(dim):
    """Of length one, with mean 0 and covariance I / d, within five standard errors."""
    vectors = directions(dim, 4000)
    torch.testing.assert_close(vectors.norm(dim=0), torch.ones(4000), atol=1e-6, rtol=0)
    assert vectors.mean(1).abs().max() < 5 / (4000 * dim) ** 0.5
    products = vectors[:, None] * vectors
    assert ((products.mean(-1) - torch.eye(dim) / dim).abs() <= 5 * products.std(-1) / 4000**0.5 + 1e-6).all()


def test_directions_are_a_function_of_the_seed():
    first, again, other = (directions(3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


# ---- as a metric ----


def test_batches_and_shapes_do_not_matter():
    x, y = draws(23, 2, 3, 4, seed=1), draws(17, 2, 3, 4, seed=2)
    metric = SlicedWassersteinDistance(directions(24))
    for part in x.split(5):
        metric.update(part, real=True)
    for part in y.flatten(1).split(4):
        metric.update(part, real=False)
    assert metric.compute().item() == pytest.approx(distance(x, y), rel=1e-5)
    metric.reset()
    metric.update(draws(4, 24), real=True)
    metric.update(draws(4, 24), real=False)
    assert metric.compute() == 0, "reset forgets the samples"


def test_it_keeps_no_graph_and_takes_bf16():
    metric = SlicedWassersteinDistance(directions(3))
    metric.update(draws(5, 3).requires_grad_(), real=True)
    metric.update(draws(5, 3).bfloat16(), real=False)
    assert not metric.compute().requires_grad and metric.compute() < 0.02


def test_autocast_does_not_round():
    x, y = draws(50, 4, seed=1), draws(50, 4, seed=2)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = distance(x, y)
    assert rounded == distance(x, y)


def test_nan_is_not_hidden():
    x = draws(5, 3)
    assert np.isnan(distance(x, torch.where(torch.arange(5)[:, None] == 2, torch.nan, x)))


def test_refusals():
    metric = SlicedWassersteinDistance(directions(3))
    with pytest.raises(ValueError, match="samples of both sets"):
        metric.compute()
    metric.update(draws(4, 3), real=True)
    assert (len(metric.real), len(metric.fake)) == (1, 0)
    with pytest.raises(ValueError, match="samples of both sets"):
        metric.compute()
    with pytest.raises(ValueError, match="samples must have 3 elements, got 2"):
        metric.update(draws(4, 2), real=False)


def test_processes_put_their_samples_together():
    g = torch.Generator().manual_seed(0)
    directions, (x, y) = torch.randn(3, 8, generator=g), torch.randn(2, 6, 3, generator=g)
    parts, whole = [SlicedWassersteinDistance(directions) for _ in range(2)], SlicedWassersteinDistance(directions)
    for metric, rows in ((parts[0], slice(0, 4)), (parts[1], slice(4, 6)), (whole, slice(0, 6))):
        metric.update(x[rows], real=True)
        metric.update(y[rows], real=False)
    theirs = iter([parts[1].real[0], parts[1].fake[0]])
    parts[0].sync(dist_sync_fn=lambda x, group: [x, next(theirs)], distributed_available=lambda: True)
    assert squared_distances(parts[0].real, parts[0].fake).mean().sqrt() == pytest.approx(whole.compute().item())

"""The distance of samples from data, beside that of data from data."""

import math

import pytest
import torch

from src.metrics.sliced_wasserstein import (
    BinnedQuantiles,
    SlicedWasserstein,
    bootstrap,
    distance_along,
    seeded_directions,
)
from src.statistics.sliced_wasserstein import SlicedWassersteinDistance, squared_distances
from src.utils.seeding import generator


def points(n, randn, shift=0.0):
    return (randn(n, 2) + torch.tensor([shift, 0.0])).float()


def test_it_is_that_of_the_metric(context, randn):
    x, train, test = (points(n, randn) for n in (150, 400, 300))
    value = SlicedWasserstein(projections=32)(context(x, train, test)).values["sliced_wasserstein"]
    metric = SlicedWassersteinDistance(seeded_directions(2, 32))
    metric.update(test, real=True)
    metric.update(x, real=False)
    assert value.value == pytest.approx(metric.compute().item(), rel=1e-5)


def test_a_shift(context, randn):
    """A shift by d is d / sqrt(2) along random directions of the plane."""
    section = SlicedWasserstein(400, 30)(context(points(600, randn, 1.0), points(900, randn), points(900, randn)))
    value = section.values["sliced_wasserstein"]
    assert value.value == pytest.approx(1 / math.sqrt(2), rel=0.1) and value.low < value.value < value.high
    assert value.real_baseline < 0.2 < value.low and "times that of as many" in section.interpretation


def test_new_data_cannot_be_told_from_data(context, randn):
    section = SlicedWasserstein(64, 100)(context(points(500, randn), points(2000, randn), points(2000, randn)))
    value = section.values["sliced_wasserstein"]
    assert value.low <= value.real_baseline * 1.5 and value.value < 2 * value.real_baseline
    assert set(section.pictures) == {"points"}


def test_the_baseline_is_that_of_several_sets(context, randn):
    x, train, test = points(60, randn), points(3000, randn), points(300, randn)
    given = context(x, train, test)
    few = [given.train.some(60, "sliced", given.seed, *key)["x"].float() for key in ([], [1], [2])]
    directions = seeded_directions(2, 16, given.seed)
    expected = math.sqrt(sum(distance_along(v, test, directions) ** 2 for v in few) / 3)
    found = SlicedWasserstein(16, 2, baselines=3)(given).values["sliced_wasserstein"]
    assert found.real_baseline == pytest.approx(expected, rel=1e-6)


def test_few_training_data_are_said(context, randn):
    section = SlicedWasserstein(8, 5)(context(points(50, randn), points(20, randn), points(30, randn)))
    assert "20 training data" in section.notes[-1]


def test_the_interval_holds_other_samples(randn):
    """Of 60 other sets of samples from the same source about 95 % are within the interval of one, give or take."""
    real, shifted = randn(1000, 1), lambda: randn(300, 1) + 0.5
    x = shifted()
    distance = squared_distances(x, real).mean().sqrt()
    low, high = (distance + v for v in bootstrap(x, real, 200))
    others = torch.stack([squared_distances(shifted(), real).mean().sqrt() for _ in range(300)])
    # The interval of one set is as wide as the spread of the others, whose middle it lies around by its own chance.
    assert (high - low) == pytest.approx((others.quantile(0.975) - others.quantile(0.025)).item(), rel=0.25)
    assert low < others.mean() < high


@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 5), (4, 12), (12, 4), (7, 11)])
def test_the_short_way_to_the_distance(randn, n, m):
    x, y = randn(n, 6), 2 * randn(m, 6)
    assert BinnedQuantiles.of(y, n).distance(x).item() == pytest.approx(
        squared_distances(x, y).mean().sqrt().item(), rel=1e-6
    )


def test_resamples_are_not_sorted_anew(randn):
    x, real = randn(40, 3), randn(50, 3)
    g, target = generator("bootstrap"), BinnedQuantiles.of(real, 40)
    again = torch.stack([target.distance(x[torch.randint(40, (40,), generator=g)]) for _ in range(20)])
    expected = (again - again.mean()).quantile(torch.tensor([0.025, 0.975], dtype=again.dtype))
    assert bootstrap(x, real, 20) == pytest.approx(expected.tolist(), rel=1e-9)


def test_distances_in_parts(randn, monkeypatch):
    x, y, directions = randn(50, 4), randn(70, 4), randn(4, 6)
    whole = distance_along(x, y, directions)
    monkeypatch.setattr("src.metrics.sliced_wasserstein.MAX_ELEMENTS", 300)
    assert distance_along(x, y, directions) == pytest.approx(whole, rel=1e-12)


def test_many_samples_have_the_interval_of_some(context, randn):
    """Which is as wide as that of all, and is said."""
    x, real, train = points(2000, randn, 1.0), points(900, randn), points(900, randn)
    all_of_them, some = (SlicedWasserstein(64, 200, most)(context(x, train, real)) for most in (2000, 500))
    full, part = (section.values["sliced_wasserstein"] for section in (all_of_them, some))
    assert part.value == full.value and part.low < part.value < part.high
    assert part.high - part.low == pytest.approx(full.high - full.low, rel=0.3)
    assert "500 of the 2,000 samples" in some.notes[-1] and "scaled" not in " ".join(all_of_them.notes)


def test_training_data_that_are_the_test_data(context, randn):
    x, real = points(50, randn, 1.0), points(50, randn)
    assert "with distance 0" in SlicedWasserstein(8, 5)(context(x, real, real)).interpretation


def test_signals_have_no_clouds(context, rand):
    section = SlicedWasserstein(8, 5)(context(rand(20, 1, 30), rand(20, 1, 30), rand(20, 1, 30)))
    assert not section.pictures and section.values["sliced_wasserstein"].value > 0

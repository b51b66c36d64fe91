"""The distance of samples from data, beside that of data from data."""

import math

import pytest
import torch

from src.measures.sliced import Cells, Sliced, bootstrap
from src.metrics.sliced_wasserstein import SlicedWasserstein, squared_distances


def points(n, randn, shift=0.0):
    return (randn(n, 2) + torch.tensor([shift, 0.0])).float()


def test_it_is_that_of_the_metric(subject, randn):
    x, train, test = (points(n, randn) for n in (150, 400, 300))
    value = Sliced(projections=32)(subject(x, train, test)).values["sliced_wasserstein"]
    metric = SlicedWasserstein(32)
    metric.update(test, real=True)
    metric.update(x, real=False)
    assert value.value == pytest.approx(metric.compute().item(), rel=1e-5)


def test_a_shift(subject, randn):
    """A shift by d is d / sqrt(2) along random directions of the plane."""
    section = Sliced(400, 30)(subject(points(600, randn, 1.0), points(900, randn), points(900, randn)))
    value = section.values["sliced_wasserstein"]
    assert value.value == pytest.approx(1 / math.sqrt(2), rel=0.1) and value.low < value.value < value.high
    assert value.floor < 0.2 < value.low and "times as far" in section.notes[0]


def test_new_data_cannot_be_told_from_data(subject, randn):
    section = Sliced(64, 100)(subject(points(500, randn), points(2000, randn), points(2000, randn)))
    value = section.values["sliced_wasserstein"]
    assert value.low <= value.floor * 1.5 and value.value < 2 * value.floor
    assert set(section.pictures) == {"points"}


def test_few_training_data_are_said(subject, randn):
    section = Sliced(8, 5)(subject(points(50, randn), points(20, randn), points(30, randn)))
    assert "20 training data" in section.notes[-1]


def test_the_interval_holds_other_samples(randn):
    """Of 60 other sets of samples from the same source about 95 % are within the interval of one, give or take."""
    real, shifted = randn(1000, 1), lambda: randn(300, 1) + 0.5
    low, high = bootstrap(shifted(), real, 200)
    others = torch.stack([squared_distances(shifted(), real).mean().sqrt() for _ in range(300)])
    # The interval of one set is as wide as the spread of the others, whose middle it lies around by its own chance.
    assert (high - low) == pytest.approx((others.quantile(0.975) - others.quantile(0.025)).item(), rel=0.25)
    assert low < others.mean() < high


@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 5), (4, 12), (12, 4), (7, 11)])
def test_the_short_way_to_the_distance(randn, n, m):
    x, y = randn(n, 6), 2 * randn(m, 6)
    assert Cells.of(y, n).distance(x).item() == pytest.approx(squared_distances(x, y).mean().sqrt().item(), rel=1e-6)


def test_signals_have_no_clouds(subject, rand):
    section = Sliced(8, 5)(subject(rand(20, 1, 30), rand(20, 1, 30), rand(20, 1, 30)))
    assert not section.pictures and section.values["sliced_wasserstein"].value > 0

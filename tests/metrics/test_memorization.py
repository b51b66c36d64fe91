"""Copies are found, and what is new is not taken for one."""

import pytest
import torch
from scipy.spatial import KDTree

from src.metrics.features.base import Features
from src.metrics.memorization import Memorization, nearest_neighbors

KEYS = [f"{what}_{space}" for what in ("nearer_to_training", "copies") for space in ("pixels", "features")]


class Halves(Features):
    """The brightness of the left half and of the right half."""

    name, width = "halves", 2

    def __init__(self, context):
        self.train, self.test = (self(real[:]["x"]) for real in (context.train, context.test))

    def __call__(self, x):
        return torch.stack([half.flatten(1).mean(1) for half in x.chunk(2, 3)], 1)


@pytest.mark.parametrize("size", [(1, 6, 4), (3, 4, 4)])
def test_copies_of_training_images(context, rand, size):
    """With as many training as test data all copies are nearer to those, and all at no distance."""
    train, test = rand(300, *size), rand(300, *size)
    found = Memorization()(context(train[50:90], train, test, features=Halves))
    assert [found.values[key].value for key in KEYS] == [1, 1, 1, 1]
    assert found.values["copies_pixels"].low > 0.9 and found.interpretation.count("there are copies") == 2


def test_half_of_them_copies(context, rand):
    train, test, new = rand(400, 1, 5, 5), rand(400, 1, 5, 5), rand(100, 1, 5, 5)
    found = Memorization()(context(torch.cat([train[:100], new]), train, test))
    copies, nearer = found.values["copies_pixels"], found.values["nearer_to_training_pixels"]
    assert copies.value == pytest.approx(0.5, abs=0.03) and nearer.value == pytest.approx(0.75, abs=0.06)
    assert nearer.low < 0.75 < nearer.high


def test_new_images(context, rand):
    """Uniform noise is no nearer to training than to test data, which are a third of them."""
    found = Memorization()(context(rand(400, 1, 4, 4), rand(900, 1, 4, 4), rand(300, 1, 4, 4)))
    nearer, copies = found.values["nearer_to_training_pixels"], found.values["copies_pixels"]
    assert nearer.low < 0.5 < nearer.high and nearer.real_baseline == 0.5
    assert copies.value < 0.03 and copies.real_baseline == 0.01 and "no nearer" in found.interpretation


def test_thinned_training_data(context, rand):
    """Of training data ten times as many as test data, a tenth are looked at, and so few of the copies are found."""
    train, test = rand(1000, 1, 4, 4), rand(100, 1, 4, 4)
    found = Memorization()(context(train, train, test)).values
    # A tenth are at no distance, and the others are new to both.
    assert found["nearer_to_training_pixels"].value == pytest.approx(0.1 + 0.9 / 2, abs=0.06)
    assert found["copies_pixels"].value == 1


def test_copies_of_test_images(context, rand):
    train, test = rand(200, 1, 4, 4), rand(200, 1, 4, 4)
    found = Memorization()(context(test[:50], train, test))
    assert found.values["nearer_to_training_pixels"].value == 0 and "distributions differ" in found.interpretation


def test_equal_distances_count_half(context, rand):
    same = rand(60, 1, 4, 4)
    assert Memorization()(context(same, same, same)).values["nearer_to_training_pixels"].value == 0.5


@pytest.mark.parametrize("k", [1, 5, 30])
@pytest.mark.parametrize("dims", [3, 40])
def test_nearest_is_that_of_a_tree(rand, k, dims):
    x, data = rand(20, dims), rand(1300, dims)
    rows = torch.randperm(1300)[:1200]
    found = nearest_neighbors(x, data.__getitem__, rows, k)
    distance, index = KDTree(data[rows].double()).query(x.double(), k=[*range(1, k + 1)])
    assert found.distance.numpy() == pytest.approx(distance, abs=1e-4)
    assert (found.indices == rows[torch.as_tensor(index)]).double().mean() > 0.99


def test_closeness(rand):
    """Of a copy 0; in the middle of many that are as far 1."""
    ring = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    found = nearest_neighbors(torch.tensor([[0.0, 0], [1, 0]]), ring.__getitem__, torch.arange(4), 4)
    assert found.relative_distance.tolist() == [1, 0]


def test_of_many_samples_some_are_looked_at(context, rand):
    x, train, test = rand(30, 1, 8, 8), rand(60, 1, 8, 8), rand(60, 1, 8, 8)
    some, first = (Memorization(2, max_samples=n)(context(some, train, test)) for n, some in ((10, x), (99, x[:10])))
    assert some.values == first.values
    assert "10 of the 30 samples" in some.notes[-1] and "Computed on" not in " ".join(first.notes)

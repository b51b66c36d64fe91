"""Distances of images against independent computations, and how floors and intervals behave."""

from functools import partial

import pytest
import torch
from scipy.linalg import sqrtm

from src.metrics.distances import Distances
from src.metrics.features.base import Features

K = 4


class Law(Features):
    """Images (N, K, 1, 1) are their own features; the classes are their largest numbers."""

    name, width, accuracy = "numbers", K, 1.0

    def __init__(self, reference):
        self.train, self.test = (self(real[:]["x"]) for real in (reference.train, reference.test))

    def __call__(self, x):
        return 10 * x.flatten(1)

    def logits(self, features):
        return features


def images(n: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    x = 0.5 + 0.1 * torch.randn(n, K, generator=torch.Generator().manual_seed(seed)) + shift
    return x.clamp(0, 1).view(n, K, 1, 1)


@pytest.fixture
def measured(context):
    """`measured(n, shift)`: the values of n samples."""

    def measure(n, shift=0.0, n_real=3000, **settings):
        of = context(images(n, 1, shift), images(n_real, 2), images(n_real, 3), features=Law)
        return of, Distances(**settings)(of)

    return measure


def by_scipy(a, b) -> float:
    a, b = a.double(), b.double()
    s, t = torch.cov(a.T), torch.cov(b.T)
    root = torch.from_numpy(sqrtm((s @ t).numpy()).real)
    return float((a.mean(0) - b.mean(0)).square().sum() + (s + t - 2 * root).trace())


def mmd(x, y) -> float:
    """The unbiased squared distance with the kernel (x y / D + 1)^3, over all pairs."""
    x, y = x.double(), y.double()
    kernel = lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3  # noqa: E731
    own = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (kernel(x, x), kernel(y, y))]
    return float(own[0] + own[1] - 2 * kernel(x, y).mean())


@pytest.mark.parametrize("shift", [0.0, 0.05])
def test_the_numbers_are_those_of_independent_computations(measured, shift):
    of, section = measured(1000, shift)
    values, fake, real = section.values, of.fake_features, of.features.test
    assert values["frechet_distance"].value == pytest.approx(by_scipy(real, fake), rel=1e-4)
    expected = mmd(real, fake)
    assert values["kernel_distance"].value == pytest.approx(expected, rel=1e-4, abs=1e-4)
    p = fake.double().softmax(1)
    score = (p * (p.log() - p.mean(0).log())).sum(1).mean().exp().item()
    assert values["classifier_score"].value == pytest.approx(score, rel=0.02)


def test_a_shift_is_seen_and_none_is_not(measured):
    _, same = measured(1000)
    _, far = measured(1000, 0.05)
    for name in ("frechet_distance", "kernel_distance"):
        a, b = same.values[name], far.values[name]
        assert b.low > b.real_baseline and b.value > 5 * abs(a.value)
        assert a.low <= a.real_baseline * 1.5
    assert far.values["precision"].value < same.values["precision"].value
    assert same.values["precision"].value == pytest.approx(same.values["precision"].real_baseline, abs=0.05)
    assert same.values["density"].value == pytest.approx(1, abs=0.1)


def test_floor_and_interval_shrink_with_n(measured):
    small, large = (measured(n)[1].values["frechet_distance"] for n in (100, 1600))
    assert large.real_baseline < small.real_baseline / 4
    assert large.high - large.low < (small.high - small.low) / 4
    assert large.low <= large.value <= large.high


def test_the_same_samples_give_the_same_numbers(measured):
    first, again = ({k: v.value for k, v in measured(200)[1].values.items()} for _ in range(2))
    assert first == again


def test_the_least_number_of_samples(context):
    of = context(images(5, 1), images(50, 2), images(50, 3), features=Law)
    assert Distances().min_samples_for(of) == 6 and Distances(k=2).min_samples_for(of) == 5


def test_few_samples_and_few_data_are_flagged(measured):
    _, section = measured(30, n_real=20)
    assert sum(note.startswith("WARNING") for note in section.notes) == 3
    assert "Precision, recall, density and coverage use 20 of the 30 samples." in section.notes
    _, section = measured(100)
    assert not any(note.startswith("WARNING") for note in section.notes)


class Rotated(Law):
    """The same numbers in another order, and without classes: all distances are equal."""

    def __call__(self, x):
        return super().__call__(x).roll(1, 1)

    def train_rows(self, rows):
        return self.train[rows]

    def logits(self, features):
        return None


def test_a_further_space_has_keys_and_titles_of_its_own(measured):
    """And in a space that is a rotation of the other, the same values."""
    _, own = measured(100, 0.05)
    _, other = measured(100, 0.05, features=Rotated, suffix="_turned")
    assert set(other.values) == {f"{key}_turned" for key in own.values if key != "classifier_score"}
    for key, value in other.values.items():
        before = own.values[key.removesuffix("_turned")]
        assert value.name == f"{before.name} (turned)"
        got, wanted = ((v.value, v.real_baseline) for v in (value, before))
        assert got == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def test_a_space_is_built_once(context):
    built = []

    def make(reference, width, scale):
        built.append(width)
        return Law(reference)

    of = context(images(5, 1), images(50, 2), images(50, 3), features=Law)
    first, again, wider = (partial(make, width=width, scale=partial(max, 1)) for width in (3, 3, 4))
    assert of.reference.in_space(first) is of.reference.in_space(again) and built == [3]
    assert of.reference.in_space(wider) is not of.reference.in_space(first) and built == [3, 4]
    assert of.reference.in_space(Law) is of.features is of.reference.in_space(None)
    assert "those of features=" in Distances(features=Law).why_not_applicable(of)
    assert Distances(features=first).why_not_applicable(of) is None
    assert Distances(features=partial(make, width=9, scale=1)).min_samples_for(of) == 10


def test_signals_are_refused(context):
    waves = torch.randn(10, 1, 16)
    assert "it is for images" in Distances().why_not_applicable(context(waves, waves, waves))

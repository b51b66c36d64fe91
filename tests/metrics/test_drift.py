"""Drift in images and other samples, as a whole, by class and by condition."""

import pytest
import torch

from src.data.samples import TensorSamples
from src.diffusion.conditions.text import encode_text
from src.metrics.drift import Drift
from src.metrics.drift_measures import as_vectors, sample_statistics

pytestmark = pytest.mark.strength(1)


def names(drift, tests):
    return {test.name for test in tests if drift.differs(test)}


@pytest.fixture
def images(rand, context):
    """The reference data of blobs of two classes, dark and light, and a function that draws new ones."""

    def draw(n, generator):
        label = torch.arange(n) % 2
        x = torch.rand(n, 1, 4, 4, generator=generator) * 0.5
        return x + 0.4 * label.view(-1, 1, 1, 1), label

    g = torch.Generator().manual_seed(0)
    made = context(rand(4, 1, 4, 4), draw(200, g), draw(120, g))
    return made.reference, lambda n: dict(zip(("x", "label"), draw(n, g), strict=True))


def test_equal_images(images):
    reference, draw = images
    drift = Drift(max_samples=80)
    tests = drift(draw(60), reference)
    assert not names(drift, tests)
    assert [test.name for test in tests] == [
        "features of the run", "pixels", "brightness, contrast and spectrum", "classes",
        "features of the run (class 0)", "features of the run (class 1)",
    ]  # fmt: skip
    assert {test.n for test in tests} == {60, 30}
    assert all(test.adjusted >= test.p > 0 for test in tests)


def test_false_alarms_of_all_tests_together(images):
    """At a rate of 0.2, so that the number is not nothing."""
    reference, draw = images
    drift = Drift(false_alarm_rate=0.2, max_samples=60, permutations=1)
    alarms = sum(bool(names(drift, drift(draw(40), reference, seed))) for seed in range(20))
    assert alarms <= 9


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x, y: (1 - x, y), {"features of the run (class 0)"}),
        (lambda x, y: (x.mean((2, 3), keepdim=True).expand_as(x), y), {"brightness, contrast and spectrum"}),
        (lambda x, y: (x[y == 1], y[y == 1]), {"classes", "pixels"}),
        (lambda x, y: (torch.where(y.view(-1, 1, 1, 1) == 1, x.flip(0), x), y), {"features of the run (class 1)"}),
    ],
    ids=["inverted", "flat", "one class", "a wrong class"],
)  # fmt: skip
def test_drift_is_found_and_named(images, change, expected):
    reference, draw = images
    drift = Drift(max_samples=100)
    x, label = change(*draw(80).values())
    assert expected <= names(drift, drift({"x": x, "label": label}, reference))


def test_data_like_the_held_out_data_are_no_drift(rand, context):
    """Even where these differ from the training data, as features that were trained on the latter make them."""
    reference = context(rand(4, 1, 4, 4), rand(120, 1, 4, 4), 0.5 + 0.5 * rand(120, 1, 4, 4)).reference
    drift = Drift(max_samples=60)
    for new in (rand(50, 1, 4, 4), 0.5 + 0.5 * rand(50, 1, 4, 4)):
        assert not names(drift, drift({"x": new}, reference))
    assert names(drift, drift({"x": 0.25 + 0.5 * rand(50, 1, 4, 4)}, reference))


def test_conditions(rand, context):
    """A vector whose relation to the samples is reversed, with the same shares; and a text that was never there."""

    def draw(n, sign=1):
        v = rand(n, 2)
        return 0.1 * rand(n, 1, 6) + sign * v[:, :1, None], v

    def texts(n, words):
        return encode_text([words[i % len(words)] for i in range(n)], 8)

    made = context(rand(4, 1, 6), rand(200, 1, 6), rand(100, 1, 6))
    for part, n in (("train_set", 200), ("val_set", 100)):
        x, v = draw(n)
        setattr(made.data, part, TensorSamples(x, fields={"vector": v, "text": texts(n, ["one", "two"])}))
    made.data.vector_names = ["mass", "age"]
    reference, drift = made.reference, Drift(0.05, max_samples=80, min_group=5)
    x, v = draw(80)
    new = {"x": x, "vector": v, "text": texts(80, ["one", "two"])}
    tests = drift(new, reference)
    assert not names(drift, tests)
    groups = {test.group for test in tests if test.group}
    assert {"“one”", "“two”"} <= groups
    assert sum(group.startswith("mass ") for group in groups) == 4
    reversed_ = drift(new | {"x": draw(80)[0]}, reference)
    assert any(name.startswith("elements (mass ") for name in names(drift, reversed_))
    assert "elements" not in names(drift, reversed_)
    assert "text" in names(drift, drift(new | {"text": texts(80, ["one", "four"])}, reference))


@pytest.mark.parametrize("shape", [(2,), (2, 40), (1, 8, 5), (1, 4, 4, 4)], ids=str)
def test_every_kind_of_data(rand, context, shape):
    made = context(rand(4, *shape), rand(90, *shape), rand(60, *shape))
    drift = Drift(max_samples=60)
    assert not names(drift, drift({"x": rand(40, *shape)}, made.reference))
    assert names(drift, drift({"x": rand(40, *shape) ** 4}, made.reference))


def test_statistics_of_samples():
    """Of a sample of one level: its mean, no contrast; of a wave in the first band the power there alone."""
    found = sample_statistics(torch.full((1, 2, 16, 16), 0.25))[0]
    assert torch.allclose(found[:3], torch.tensor([0.25, 0.25, 0.0]), atol=1e-6)
    wave = 0.5 + 0.4 * torch.cos(2 * torch.pi * torch.arange(16) / 16).expand(1, 1, 16, 16)
    spectrum = sample_statistics(wave)[0, 4:]
    assert spectrum.argmax() == 0 and spectrum[0] - spectrum[1:].max() > 60


def test_large_samples_are_compared_in_cells():
    x = torch.rand(2, 1, 64, 64)
    assert torch.allclose(as_vectors(x)[:, 0], x[:, 0, :2, :2].mean((1, 2)))
    assert as_vectors(x).shape == (2, 32 * 32)

"""The metric of pixels: planted biases, and their words."""

import pytest
import torch

from src.metrics.pixels import LOGGED, Pixels, compare_pixels, grouped_means
from src.metrics.sample_distance import SampleDistance


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes most of the time."""
    monkeypatch.setattr("src.metrics.pixels.pixel_pictures", lambda *_: {})


def blocks(rand, n):
    """Smooth spots on black."""
    x = rand(n, 1, 3, 3)
    return torch.nn.functional.interpolate(x * (x > 0.6), scale_factor=4, mode="bilinear")


FAULTS = {
    "none": (lambda x: x, "none in the pixels"),
    "bold": (lambda x: (1.3 * x).clamp(max=1), "brightness +"),
    "gray": (lambda x: x.clamp(min=0.02), "0 % of the pixels black, real"),
    "levels": (lambda x: (20 * x).round() / 20, "histogram off by"),
    "blur": (lambda x: torch.nn.functional.avg_pool2d(x, 3, 1, 1), "(blur; floor"),
    "noise": (lambda x: (x + 0.5 * (torch.rand_like(x) - 0.5)).clamp(0, 1), "(noise; floor"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_bias_is_named(context, rand, no_pictures, fault):
    damage, words = FAULTS[fault]
    samples, train, test = (blocks(rand, 400) for _ in range(3))
    torch.manual_seed(0)
    section = Pixels()(context(damage(samples), train, test))
    assert words in section.headline["bias"], section.headline
    assert section.interpretation[1:-1] == section.headline["bias"][1:]
    values = section.values
    assert values["mean"].real_baseline == pytest.approx(train.mean().item(), abs=1e-6)
    assert all(v.low <= v.value <= v.high for v in values.values())
    brightness = 100 * (damage(samples).mean() / test.mean() - 1).item()
    if fault != "noise":
        assert values["mean_bias_percent"].value == pytest.approx(brightness, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    ("shape", "kind", "words"),
    [
        ((2, 10), None, "% of the real standard deviation (floor"),
        ((2, 6, 6), "fields", "mean +"),
        ((1, 4, 4, 4), None, "mean +"),
        ((3, 6, 6), None, "colors off by"),
    ],
)
def test_other_kinds_and_units(context, rand, no_pictures, shape, kind, words):
    scale = 1.0 if kind is None and len(shape) == 3 else 40.0
    samples, train, test = (scale * rand(300, *shape) for _ in range(3))
    shift = torch.zeros(shape) + 0.5 * test.std()
    if shape[0] == 3:
        shift = torch.tensor([0.0, 0.0, 0.3]).view(3, 1, 1).expand(shape)
    made = context(samples + shift, train, test, **({"kind": kind} if kind else {}))
    if kind == "fields":  # the data of the context are images by their axes, scaled to [-1, 1]
        made = context((samples + shift) / 40, train / 40, test / 40)
        vars(made.reference.data)["kind"] = "fields"
        made.x = 2 * made.x - 1
    section = Pixels()(made)
    assert words in section.headline["bias"], section.headline
    if shape[0] != 3:
        assert section.values["mean_bias_percent"].value == pytest.approx(50, abs=10)
    channels = section.tables["channels"]
    expected = made.x.double().transpose(0, 1).flatten(1)
    assert channels["samples"]["mean"] == pytest.approx(expected.mean(1).tolist(), rel=1e-5)
    assert channels["samples"]["std"] == pytest.approx(expected.std(1, unbiased=False).tolist(), rel=1e-4)


def test_during_training_it_is_logged_beside_the_distance(context, rand):
    samples, train, test = (rand(60, 1, 20) for _ in range(3))
    made = context(samples, train, test)
    found = SampleDistance(made.reference.data, lambda reference: None)(samples)
    assert next(iter(found)) == "sliced_wasserstein"
    expected = compare_pixels(grouped_means(samples, made.reference).means, made.reference)
    assert {name: found[name] for name in LOGGED} == pytest.approx({name: expected[name] for name in LOGGED})


def test_points_have_no_elements(context, rand):
    assert "points" in Pixels().why_not_applicable(context(rand(9, 2), rand(9, 2), rand(9, 2)))


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 9)])
def test_pictures_show_what_is_named(context, rand, shape):
    samples, train, test = (rand(20, *shape) for _ in range(3))
    pictures = Pixels()(context(samples, train, test)).pictures
    assert set(pictures) == {"element_maps", "elements"}
    assert all(len(picture.image.getcolors(2**20) or ()) > 9 for picture in pictures.values())

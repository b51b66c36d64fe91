"""How different samples are."""

import pytest
import torch
from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure

from src.metrics.diversity import Diversity, ms_ssim_scales
from tests.metrics.test_class_accuracy import Known, images


def test_equal_samples_have_none(context, rand):
    x, data = rand(1, 1, 16, 16).expand(20, 1, 16, 16), rand(30, 1, 16, 16)
    values = Diversity()(context(x, data, data)).values
    assert values["pair_distance"].value == pytest.approx(0, abs=1e-5)
    assert values["ms_ssim"].value == pytest.approx(1, abs=1e-4)
    assert values["pair_distance"].real_baseline > 1 and values["ms_ssim"].real_baseline < 0.5


def test_the_distance_is_the_mean_over_pairs(context, rand):
    x = rand(25, 1, 8, 8)
    value = Diversity()(context(x, rand(30, 1, 8, 8), rand(30, 1, 8, 8))).values["pair_distance"]
    assert value.value == pytest.approx(torch.pdist(x.flatten(1)).mean().item(), rel=1e-5)
    assert value.low < value.value < value.high


def test_only_pairs_of_one_class_are_compared(context):
    """Images that are equal within their class, and differ between classes."""
    x = images([0, 1, 2] * 10).expand(-1, -1, 8, 8)
    label = torch.tensor([0, 1, 2] * 10)

    class Mean(Known):
        def __call__(self, x):
            return x.mean((2, 3))

    of = context(x, (x, label), (x, label), features=Mean)
    assert Diversity()(of).values["ms_ssim"].value == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("side", [180, 256])
def test_large_images_have_the_standard_scales(side, rand):
    """Those that torchmetrics uses by default."""
    betas, sigma, size = ms_ssim_scales(torch.zeros(1, 1, side, side))
    standard = MultiScaleStructuralSimilarityIndexMeasure()
    assert betas == pytest.approx(standard.betas, rel=1e-3) and (sigma, size) == (1.5, 11)


@pytest.mark.parametrize("side", [4, 8, 16, 28, 32, 64, 128])
def test_small_images_have_fewer(side, rand):
    betas, sigma, _ = ms_ssim_scales(torch.zeros(1, 3, side, side + 3))
    assert sum(betas) == pytest.approx(1) and sigma == 0.5
    x, y = rand(2, 3, side, side + 3), rand(2, 3, side, side + 3)
    similarity = Diversity(pairs=2).similarity(torch.cat([x, x, y]), None, 0)
    assert (similarity is None) == (side < 5)


def test_of_many_samples_some_are_compared(context, rand):
    x, data = rand(30, 1, 8, 8), rand(40, 1, 8, 8)
    some, first = (
        Diversity(max_samples=10)(context(x, data, data)),
        Diversity(max_samples=10)(context(x[:10], data, data)),
    )
    assert some.values["pair_distance"] == first.values["pair_distance"]
    assert "10 of the 30 samples" in some.notes[-1]

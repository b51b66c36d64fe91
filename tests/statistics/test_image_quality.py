"""Errors of restored samples against their formulas."""

import math

import pytest
import torch

from src.statistics.image_quality import image_quality, volume_ssim


def test_signals(randn):
    x, truth = randn(5, 2, 10), randn(5, 2, 10)
    assert image_quality(x, truth) == {"mse": pytest.approx((x - truth).square().mean().item())}


def test_psnr_is_a_mean_of_decibels():
    truth = torch.full((2, 1, 16, 16), 0.5)
    x = truth + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    found = image_quality(x, truth)
    assert found["psnr"] == pytest.approx(30.0, abs=1e-3)  # 20 and 40
    assert found["mse"] == pytest.approx((0.01 + 0.0001) / 2, rel=1e-4)


def test_ssim_of_flat_images_is_that_of_their_brightness():
    """(2 a b + c) / (a² + b² + c), c = 0.01²."""
    a, b = torch.full((1, 3, 20, 20), 0.4), torch.full((1, 3, 20, 20), 0.6)
    assert image_quality(a, b)["ssim"] == pytest.approx((0.48 + 1e-4) / (0.16 + 0.36 + 1e-4), rel=1e-3)
    assert image_quality(a, a)["ssim"] == pytest.approx(1.0)


@pytest.mark.parametrize("size", [8, 28])
def test_ssim_falls_with_noise(size, randn):
    truth = torch.linspace(0, 1, size).expand(4, 1, size, size)
    values = [image_quality(truth + s * randn(*truth.shape).float(), truth)["ssim"] for s in (0.0, 0.1, 0.4)]
    assert values[0] == pytest.approx(1.0) and values[0] > values[1] > values[2] > 0


def test_clipping():
    truth = torch.ones(1, 1, 12, 12)
    assert image_quality(truth + 0.5, truth)["mse"] == pytest.approx(1e-10)
    assert image_quality(truth + 0.5, truth, clip=False)["psnr"] == pytest.approx(-10 * math.log10(0.25), abs=1e-4)


@pytest.mark.parametrize(("images", "mse"), [(None, 0.25), (True, 0.25), (False, 1.0)])
def test_four_axes_are_images_unless_it_is_said(images, mse):
    """Other samples are not clipped."""
    truth = torch.full((2, 1, 16, 16), 0.5)
    found = image_quality(truth + 1, truth, images=images)
    assert set(found) == {"mse", "psnr", "ssim"} and found["mse"] == pytest.approx(mse)


@pytest.mark.parametrize("shape", [(1, 16, 12), (2, 8, 12, 7)])
def test_fields_and_volumes_relative_to_the_range_of_the_truth(shape, randn):
    """The units make no difference to PSNR and SSIM."""
    truth = randn(3, *shape).float()
    x = truth + 0.3 * randn(3, *shape).float()
    found, scaled = image_quality(x, truth, images=False), image_quality(50 * x + 7, 50 * truth + 7, images=False)
    assert scaled["mse"] == pytest.approx(2500 * found["mse"], rel=1e-4)
    assert scaled["psnr"] == pytest.approx(found["psnr"], abs=1e-3)
    errors, data_range = (x - truth).square().flatten(1).mean(1), (truth.max() - truth.min()) ** 2
    assert found["psnr"] == pytest.approx((10 * (data_range / errors).log10()).mean().item(), abs=1e-4)
    assert image_quality(truth, truth, images=False)["ssim"] == pytest.approx(1.0) and 0 < found["ssim"] < 0.95


def test_ssim_of_volumes_is_that_of_torchmetrics(randn):
    from torchmetrics.functional.image import structural_similarity_index_measure

    truth = randn(2, 2, 9, 6, 12)
    x = truth + 0.5 * randn(*truth.shape)
    expected = structural_similarity_index_measure(x, truth, data_range=4.0, reduction="none")
    torch.testing.assert_close(volume_ssim(x, truth, 4.0), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(5, 12), (4, 8, 8)])
def test_no_ssim_where_its_window_does_not_fit(size, randn):
    assert set(image_quality(randn(2, 1, *size), randn(2, 1, *size))) == {"mse", "psnr"}

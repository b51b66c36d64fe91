"""Statistics of elements: closed forms, and errors against the spread over repeated draws."""

import pytest
import torch

from src.statistics.pixels import GroupedMeans, ValueRange, bias, covariance, element_std, statistics
from src.statistics.power_spectrum import power, radial, radial_frequency


def grouped(x):
    return GroupedMeans.of(x.split(7))


@pytest.mark.parametrize("shape", [(2, 9), (1, 6, 5), (3, 4, 4), (2, 4, 3, 5)])
def test_means_are_those_of_all_elements(randn, shape):
    x = randn(40, *shape)
    means = grouped(x).means
    flat = x.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(covariance(means), torch.cov(flat, correction=0).view(shape[0], shape[0]))
    torch.testing.assert_close(element_std(means), x.double().std(0, unbiased=False))
    found = statistics(means)
    assert found["mean"] == pytest.approx(x.mean().item(), abs=1e-6)
    assert found["contrast"] == pytest.approx(x.flatten(2).var(2, unbiased=False).mean(1).sqrt().mean().item())
    assert found["low_percent"] == pytest.approx(100 * (x < 0.5 / 255).float().mean().item(), rel=1e-4)
    assert found["high_percent"] == pytest.approx(100 * (x > 254.5 / 255).float().mean().item(), rel=1e-4)
    assert means["histogram"].sum().item() == pytest.approx(1)


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.0), (1.2, 0.0), (0.9, 0.1)])
def test_differences_of_an_affine_map(randn, factor, shift):
    x = 0.1 + 0.5 * randn(60, 2, 8, 6).sigmoid()
    found = bias(grouped(factor * x + shift).means, real := grouped(x).means, positive=True)
    mean = real["channels"].mean().item()
    assert found["mean_bias_percent"] == pytest.approx(100 * (factor - 1 + shift / mean), abs=1e-3)
    assert found["contrast_bias_percent"] == pytest.approx(100 * (factor - 1), abs=1e-3)
    assert found["fine_detail_db"] == pytest.approx(20 * torch.tensor(factor).log10().item(), abs=1e-4)
    assert found["radial_spectrum_db"] == pytest.approx(abs(found["fine_detail_db"]), abs=1e-4)
    assert found["element_spread_percent"] == pytest.approx(100 * abs(factor - 1), rel=0.02, abs=1e-6)
    assert found["channel_covariance_percent"] == pytest.approx(100 * abs(factor**2 - 1), abs=1e-3)
    if factor == 1:
        assert found["histogram_distance"] == 0 and found["element_mean_percent"] < 1e-9
    other = bias(grouped(factor * x + shift).means, real, positive=False)
    spread = (covariance(real).trace() / 2).sqrt().item()
    assert other["mean_bias_percent"] * spread == pytest.approx(found["mean_bias_percent"] * mean)


def test_channels_that_move_apart(randn):
    x = randn(50, 3, 5, 5).sigmoid()
    found = bias(grouped(x + torch.tensor([0.1, 0, -0.1]).view(3, 1, 1)).means, grouped(x).means, positive=True)
    assert found["channel_mean_percent"] == pytest.approx(10 / x.mean().item(), rel=1e-4)
    assert found["mean_bias_percent"] == pytest.approx(0, abs=1e-4)
    assert "channel_mean_percent" not in bias(grouped(x[:, :1]).means, grouped(x[:, :1]).means, positive=True)


def test_errors_are_the_spread_over_draws(randn):
    """The jackknife's mean error is the standard deviation of 60 draws, which is known to 9 %."""
    draws = [grouped(0.5 + 0.1 * randn(50, 1, 1, 1) + 0.1 * randn(50, 1, 4, 4)).estimate(statistics) for _ in range(60)]
    for name in ("mean", "contrast"):
        values, errors = torch.tensor([draw[name] for draw in draws]).T
        assert errors.square().mean().sqrt().item() == pytest.approx(values.std().item(), rel=0.3)
    assert (
        statistics(grouped(randn(1, 1, 4)).means)
        and not torch.tensor([error for _, error in grouped(randn(1, 1, 4)).estimate(statistics).values()])
        .isfinite()
        .any()
    )


def test_range_and_its_inverse(randn):
    x = randn(20, 2, 7) * torch.tensor([[1.0], [300.0]]) + torch.tensor([[0.0], [1000.0]])
    ends = ValueRange.of(x.split(3))
    unit = ends.to_unit(x)
    assert unit.min() == 0 and unit.max() == 1 and unit[:, 1].min() == 0
    torch.testing.assert_close(torch.stack([ends.from_unit(each) for each in unit]), x.double())
    assert ends.width is None and ValueRange.of([torch.ones(3, 1, 4)]).width == 1


def test_rings_hold_the_power_of_their_frequency():
    """A plane wave of 3 cycles over 12 elements has its power in the ring at 1/4."""
    rows = torch.arange(12) / 12
    x = torch.cos(2 * torch.pi * 3 * rows)[:, None].expand(12, 12)
    frequency, found = radial(power(x[None, None])[0])
    assert frequency[found.argmax()].item() == pytest.approx(0.25)
    assert found.sum() == pytest.approx(found.max().item())
    assert radial_frequency((4, 6))[2, 3].item() == pytest.approx(0.5**0.5)

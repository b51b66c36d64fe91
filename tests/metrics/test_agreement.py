"""Agreement with vectors and images: the regressor reads what is there, and quality is that of the pairs."""

from types import SimpleNamespace

import pytest
import torch

from src.data.sine import Sine
from src.diffusion.conditions import Labels, Measured, Vector
from src.diffusion.conditions.vector import standardized
from src.diffusion.operators import Downsample
from src.metrics.agreement import Agreement, Regressor, errors, image_values, median_interval
from src.statistics.image_quality import image_quality


def test_the_regressor_reads_frequency_and_amplitude():
    data = Sine(n=600, vector_size=2, size=(32,))
    data.load()
    context = SimpleNamespace(data=data, seed=0)
    regressor = Agreement(steps=150, width=8, lr=5e-3).train(context, "vector")
    batch = data.test_set[0, torch.arange(100)]
    found, spread = errors(regressor, batch["x"], batch["vector"]), batch["vector"].std(0)
    assert (found.median(0).values < 0.5 * spread).all(), "the median distance from the mean is 0.87 of it"
    one, two = (Agreement(steps=2, width=8).train(context, "vector").state_dict() for _ in range(2))
    assert all(map(torch.equal, one.values(), two.values())), "a function of the seed"


@pytest.mark.parametrize("shape", [(3,), (2, 17), (1, 8, 8), (1, 6, 8, 8)])
def test_any_shape(shape):
    regressor = Regressor(shape, torch.randn(9, 2) * 5 + 3, 8)
    assert regressor(torch.randn(4, *shape)).shape == (4, 2)


def test_errors_on_a_circle():
    """359 and 1 degrees are 2 apart; the regressor reads a rotation all around, where a line would break."""
    regressor = Regressor((2,), torch.rand(500, 2) * 360, 16, [360.0, None])
    regressor.layers = torch.nn.Identity()
    seen = standardized(torch.tensor([[359.0, 5.0], [10.0, 6.0]]), regressor.mean, regressor.std, regressor.period)
    found = errors(regressor, seen, torch.tensor([[1.0, 5.5], [350.0, 5.0]]))
    torch.testing.assert_close(found, torch.tensor([[2.0, 0.5], [20.0, 1.0]]), atol=1e-3, rtol=0)


def test_pairs_and_what_is_measured_again():
    g = torch.Generator().manual_seed(0)
    truth, noise = torch.rand(6, 1, 16, 16, generator=g), 0.1 * torch.randn(6, 1, 16, 16, generator=g)
    condition = Measured(lambda shape: Downsample(4), 1, (16, 16))
    x = (truth + noise).clamp(0, 1)
    context = SimpleNamespace(x=x, truth=truth, kind="images", to_model=lambda v: 2 * v - 1)
    asked = condition.measure(2 * truth - 1)
    values = image_values(context, condition, asked)
    quality = image_quality(x, truth)
    assert values["paired_psnr"].value == quality["psnr"] and values["paired_ssim"].value == quality["ssim"]
    expected = (condition.measure(2 * x - 1) - asked).square().mean().sqrt() / asked.std()
    assert values["measured_again"].value == pytest.approx(expected.item())


def test_the_interval_of_a_median():
    """It holds the median of a normal distribution in about 95 of 100 samples."""
    g = torch.Generator().manual_seed(0)
    ends = [median_interval(torch.randn(101, generator=g)) for _ in range(400)]
    assert 0.92 < sum(low <= 0 <= high for low, high in ends) / 400 < 0.98


def test_it_is_for_vectors_and_paired_images():
    def context(condition, paired=False, cond=None):
        pipeline = SimpleNamespace(denoiser=SimpleNamespace(condition=condition))
        return SimpleNamespace(kind="signals", pipeline=pipeline, paired=paired, cond=cond, from_file=False)

    assert Agreement().why_not_applicable(context(Vector(2))) is None
    assert "condition=test" in Agreement().why_not_applicable(context(Labels(3), True, torch.zeros(2)))
    small = Measured(lambda shape: Downsample(2), 1, (8,))
    assert Agreement().why_not_applicable(context(small, True, torch.zeros(2, 1, 4))) is None
    assert "condition=test" in Agreement().why_not_applicable(context(small, False, torch.zeros(2, 1, 4)))

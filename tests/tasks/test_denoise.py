"""Noise is found, and taken out as the best denoiser does."""

import pytest
import torch

from src.samplers.ancestral import DDPM
from src.samplers.pipeline import Pipeline
from src.tasks.base import TaskInput
from src.tasks.denoise import Denoise, estimate_noise_std
from src.utils.errors import UserError
from tests.diffusion.reference import Oracle

pytestmark = pytest.mark.strength(1)


def make_model(truth, schedule, shape, steps=40, **more):
    return Pipeline(Oracle(truth.denoiser(schedule), schedule), DDPM(schedule, steps), shape, **more)


@pytest.mark.parametrize("shape", [(1, 8), (2, 6), (1, 4, 4), (3, 2, 4)])
@pytest.mark.parametrize("process", ["cosine", "vp_sde", "ve_sde", "flow", "edm"])
def test_one_evaluation_is_the_mean_of_what_the_data_may_be(gaussian, make_schedule, process, shape, randn):
    """Whatever the schedule: E[x_0 | y] of Gaussian data."""
    truth, schedule = gaussian(shape), make_schedule(process)
    model = make_model(truth, schedule, shape, batch_size=3)
    noisy = randn(7, *shape)
    std = 0.4
    gain = truth.std**2 / (truth.std**2 + model.std_to_model(std) ** 2)
    with model.count_nfe() as cost:
        result = Denoise(std)(model, TaskInput(noisy))
    torch.testing.assert_close(result.x, truth.mean + gain * (noisy - truth.mean), atol=1e-6, rtol=0)
    assert cost.evaluations == 7 and result.truth is None
    assert "0.4, given" in result.info["noise"]


def test_it_samples_from_the_posterior(gaussian, make_schedule, randn):
    shape, std = (1, 3), 0.6
    truth, schedule = gaussian(shape), make_schedule("cosine")
    y = truth.mean + torch.tensor([[0.5, -0.5, 0.2]], dtype=torch.float64)
    result = Denoise(std, sample=True)(make_model(truth, schedule, shape, 60), TaskInput(y.expand(2500, *shape)))
    gain = truth.std**2 / (truth.std**2 + std**2)
    std = truth.std * (1 - gain).sqrt()
    assert ((result.x.mean(0) - (truth.mean + gain * (y - truth.mean))) / std).abs().max() < 0.09
    assert (result.x.std(0) / std - 1).abs().max() < 0.09


def test_test_data_is_given_the_noise(gaussian, make_schedule):
    shape = (1, 16, 16)
    model = make_model(gaussian(shape), make_schedule("cosine"), shape)
    clean = torch.zeros(20, *shape)
    result = Denoise(0.25)(model, TaskInput(truth=clean))
    assert abs(float(result.comparison["noisy"].std()) / 0.5 - 1) < 0.03, "images of [0, 1] are [-1, 1] in the model"
    assert result.truth is clean
    again = Denoise(0.25)(model, TaskInput(truth=clean))
    assert torch.equal(again.comparison["noisy"], result.comparison["noisy"])


@pytest.mark.parametrize("std", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("shape", [(1, 200), (3, 100), (1, 28, 28), (3, 32, 24)])
def test_the_noise_is_estimated(shape, std, randn):
    """On smooth data, to some per cent."""
    u = torch.linspace(0, 1, shape[-1], dtype=torch.float64)
    x = torch.sin(2 * u).expand(8, *shape) + std * randn(8, *shape)
    assert abs(estimate_noise_std(x) / std - 1) < 0.12


def test_the_estimate_is_used(gaussian, make_schedule, randn):
    shape = (1, 400)
    model = make_model(gaussian(shape), make_schedule("cosine"), shape)
    noisy = 0.5 * randn(4, *shape)
    assert "estimated" in Denoise()(model, TaskInput(noisy)).info["noise"]


def test_mistakes(gaussian, make_schedule):
    shape = (1, 8)
    model = make_model(gaussian(shape), make_schedule("additive"), shape)
    with pytest.raises(UserError, match=r"task\.noise_std must be <= 0\.316, .*, got 3"):
        Denoise(3.0)(model, TaskInput(torch.zeros(1, *shape)))
    with pytest.raises(UserError, match=r"must have 1 channel\(s\), .*, got 2"):
        Denoise(0.1)(model, TaskInput(torch.zeros(1, 2, 8)))
    with pytest.raises(UserError, match=r"must have the shape 1 x 8, .*, got 1 x 9"):
        Denoise(0.1)(model, TaskInput(torch.zeros(1, 1, 9)))
    with pytest.raises(UserError, match=r"task\.noise_std="):
        Denoise()(model, TaskInput(truth=torch.zeros(1, *shape)))
    with pytest.raises(ValueError, match=r"task\.noise_std must be > 0, got 0"):
        Denoise(0)
    with pytest.raises(UserError, match="points"):
        estimate_noise_std(torch.zeros(4, 2))

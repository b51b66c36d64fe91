"""On Gaussian data the best denoiser is affine, so the law of what a sampler draws is known without drawing."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from src.diffusion.schedules import cosine, linear
from src.samplers.ancestral import DDIM, DDPM
from src.samplers.base import SeededNoise

SHAPES = [(1, 7), (3, 5), (1, 4, 4), (3, 4, 6)]
SAMPLERS = {
    "ddpm": DDPM,
    "ddim": DDIM,
    "ddim half": lambda *args: DDIM(*args, eta=0.5),
    "ddim ancestral": lambda *args: DDIM(*args, eta=1.0),
}


def law(sampler, denoise, data):
    """The exact mean and variance of every element of a sample.

    A sampler is an affine function of the noises it draws, when the denoiser is affine. Row 0 of the batch gets none,
    which gives the mean; row k only draw k, as a one, which gives its coefficient.
    """
    rows, count = sampler.steps + 2, itertools.count(1)

    def one_hot(x):
        noise = torch.zeros_like(x)
        noise[next(count)] = 1
        return noise

    x_0 = sampler.sample(denoise, one_hot, torch.empty(rows, *data, dtype=torch.float64))
    return x_0[0], ((x_0[1:] - x_0[0]) ** 2).sum(0)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "ddim half"])
@pytest.mark.parametrize("name", ["linear", "cosine", "trigonometric", "flow"])
def test_law_converges_at_first_order(sampler, name, make_schedule, gaussian):
    """Mean and variance approach those of the data; twice the steps halve what is missing of the variance.

    The mean is right at once, but for the signal left at t = 1, which the prior leaves out.
    """
    schedule, data = make_schedule(name), gaussian((1, 9))
    mean_errors, variance_errors = [], []
    for steps in 100, 200, 400:
        mean, variance = law(SAMPLERS[sampler](schedule, steps), data.denoiser(schedule), (1, 9))
        mean_errors.append((mean - data.mean).abs().max())
        variance_errors.append((variance / data.std**2 - 1).abs().max())
    assert mean_errors[-1] < 0.005
    assert variance_errors[-1] < 0.04
    for coarse, fine in itertools.pairwise(variance_errors):
        assert 1.6 < coarse / fine < 2.5


@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_deterministic_ddim_solves_the_ode_at_first_order(name, data, make_schedule, gaussian, randn):
    schedule, truth, x_1 = make_schedule(name), gaussian(data), randn(8, *data)
    errors = []
    for steps in 50, 100, 200:
        *_, end = DDIM(schedule, steps).trajectory(truth.denoiser(schedule), x_1, torch.randn_like)
        errors.append((end.x_t - truth.ode_solution(schedule, x_1)).abs().max())
    assert errors[-1] < 0.035
    for coarse, fine in itertools.pairwise(errors):
        assert 1.8 < coarse / fine < 2.2


@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_have_the_moments_of_the_data(sampler, data, make_schedule, gaussian):
    """Drawn, with a seed for each sample: independent elements, within five standard errors and the bias above."""
    schedule, truth, n = make_schedule("cosine"), gaussian(data), 500
    x = SAMPLERS[sampler](schedule, 100).sample(
        truth.denoiser(schedule), SeededNoise(range(n)), torch.empty(n, *data, dtype=torch.float64)
    )
    z = ((x - truth.mean) / truth.std).flatten(1)
    zeros = torch.zeros(z.shape[1], dtype=torch.float64)
    assert_close(z.mean(0), zeros, rtol=0, atol=5 / n**0.5 + 0.01)
    assert_close(z.T.cov(), torch.eye(z.shape[1], dtype=torch.float64), rtol=0, atol=5 * (2 / n) ** 0.5 + 0.1)
    assert_close(z.var(), torch.ones(()).double(), rtol=0, atol=5 * (2 / z.numel()) ** 0.5 + 0.1)


@pytest.mark.parametrize(("data", "steps"), [((1, 7), 1000), ((3, 5), 100), ((1, 4, 4), 100), ((3, 4, 6), 100)])
@pytest.mark.parametrize("make", [linear, cosine])
def test_ancestral_ddim_is_ddpm(make, data, steps, gaussian, randn):
    """At every step, over all T of them, with the same noise."""
    schedule, x_1, seeds = make(steps), randn(2, *data), range(2)
    denoise = gaussian(data).denoiser(schedule)
    ddpm = DDPM(schedule, steps).trajectory(denoise, x_1, SeededNoise(seeds))
    ddim = DDIM(schedule, steps, eta=1.0).trajectory(denoise, x_1, SeededNoise(seeds))
    for a, b in zip(ddpm, ddim, strict=True):
        assert_close(a.x_t, b.x_t, rtol=0, atol=1e-9)

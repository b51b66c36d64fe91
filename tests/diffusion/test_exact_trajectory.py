"""The solved ODE of known denoisers against closed forms, to 1e-9."""

import pytest
import torch
from torch.testing import assert_close

from src.data.gaussian_field import GaussianField
from src.data.gaussian_mixture import GaussianMixture
from src.diffusion.exact_trajectory import exact_trajectory
from src.diffusion.ideal import ideal_denoiser
from src.diffusion.schedules import FlowSchedule
from tests.diffusion.test_flow_map import SCHEDULES

TIMES = torch.tensor([1.0, 0.7, 0.3, 0.0], dtype=torch.float64)
RING = GaussianMixture(n=2, weights=[2, 1, 1, 1, 1, 1, 1, 1])


def noisy(n, schedule, seed=0):
    _, sigma = schedule.alpha_sigma(TIMES[0])
    return sigma * torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_of_gaussian_data(schedule):
    """The quantile of x_t among the noisy data is kept."""
    data = GaussianMixture(n=2, modes=1, radius=0.5, std=0.3, num_classes=0)
    x_1 = noisy(16, schedule)
    path = exact_trajectory(data.posterior_mean, schedule, x_1, TIMES)
    alpha, sigma = (v[:, None, None] for v in schedule.alpha_sigma(TIMES))
    spread = ((alpha * data.std) ** 2 + sigma**2).sqrt()
    assert_close(path, alpha * data.means + spread / spread[0] * (x_1 - alpha[0] * data.means), atol=1e-9, rtol=0)


def test_of_a_mixture():
    """From a point in the middle, to a higher precision, it is the same; and its ends are from the mixture."""
    schedule, n = FlowSchedule(), 200
    x_1 = noisy(n, schedule)
    path = exact_trajectory(RING.posterior_mean, schedule, x_1, TIMES)
    again = exact_trajectory(RING.posterior_mean, schedule, path[1], TIMES[1:], 1e-12)
    assert_close(again, path[1:], atol=1e-8, rtol=0)
    radius, mode = torch.cdist(path[-1], RING.means).min(1)
    assert (radius.square().mean() / (2 * RING.std**2)).item() == pytest.approx(1, abs=0.2)
    assert_close(mode.bincount(minlength=8).double() / n, RING.weights, atol=0.1, rtol=0)


def test_the_posterior_mean_of_the_mixture():
    """It is that of very many points from it."""
    many = GaussianMixture(n=200_000, weights=RING.weights.tolist())
    many.load()
    x_t, ones = noisy(8, FlowSchedule()), torch.ones(8).double()
    alpha, sigma = 0.6 * ones, 0.5 * ones
    wanted = ideal_denoiser(x_t, alpha, sigma, [(many.train_set.x, None)])
    assert_close(RING.posterior_mean(x_t, alpha[0], sigma[0]), wanted, atol=0.01, rtol=0)


def test_the_posterior_mean_of_fields():
    """Of a Gaussian it is linear in x_t: the regression of many fields on their noisy versions leaves no relation."""
    field = GaussianField(n=2, size=(4, 6), length=(1.5, 1.0))
    draws = torch.Generator().manual_seed(0)
    x_0 = field._draw(20_000, "test").double()
    x_t = 0.6 * x_0 + 0.5 * torch.randn(x_0.shape, generator=draws, dtype=torch.float64)
    left = x_0 - field.posterior_mean(x_t, torch.tensor(0.6), torch.tensor(0.5))
    assert (left.flatten(1).T @ x_t.flatten(1) / len(x_t)).abs().max() < 0.03
    assert left.square().mean() < 0.9 * (x_0 - x_t).square().mean()

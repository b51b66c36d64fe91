"""Samplers as tables of numbers."""

import math

import pytest
import torch
from torch.testing import assert_close

from src.diffusion import CosineSchedule, EDMSchedule, FlowSchedule, LinearSchedule
from src.samplers import DDIM, DDPM, DPMpp2M, DPMpp2MSDE, FlowMapSampler, Heun, PredictorCorrector
from src.samplers.table import follow, tabulate


@pytest.mark.parametrize("schedule", [CosineSchedule, EDMSchedule, FlowSchedule])
@pytest.mark.parametrize("kind", [DDIM, DDPM, DPMpp2M, DPMpp2MSDE, Heun])
def test_a_table_draws_what_the_sampler_draws(kind, schedule, randn):
    """For data predicted by a function that is not linear, with the same noise."""
    sampler = kind(schedule(), 7)
    z = randn(3, 2, 5)

    def denoise(x, t):
        return torch.sin(2 * x) * (1 - t)

    def draws():
        generator = torch.Generator().manual_seed(3)
        return lambda x: torch.randn(x.shape, generator=generator, dtype=torch.float64)

    *_, end = sampler.trajectory(denoise, sampler.sample_prior(lambda x: z, z), draws())
    assert_close(follow(tabulate(sampler), z, denoise, draws()), end.x_t, rtol=0, atol=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 0.4, 1.0])
def test_a_table_of_a_flow_map(gamma, randn):
    """It names the time to go to, below that of the next step where noise is added."""
    sampler, z = FlowMapSampler(CosineSchedule(), 3, gamma=gamma), randn(3, 2, 5)

    def predict(x, t, s):
        return torch.sin(2 * x) * (1 - t) + s * x

    def draws():
        generator = torch.Generator().manual_seed(3)
        return lambda x: torch.randn(x.shape, generator=generator, dtype=torch.float64)

    *_, end = sampler.trajectory(predict, sampler.sample_prior(lambda x: z, z), draws())
    table = tabulate(sampler)
    assert_close(follow(table, z, predict, draws()), end.x_t, rtol=0, atol=1e-9)
    below = [row.s / after for row, after in zip(table, (2 / 3, 1 / 3), strict=False)]
    assert all(v == 0 if gamma == 1 else 0 < v < 1 if gamma else math.isclose(v, 1) for v in below)
    assert table[2].s == 0 and table[3].s is None


def test_the_table_of_ddim():
    """Its formula: x_s = alpha_s x_0 + sigma_s / sigma_t (x_t - alpha_t x_0)."""
    schedule = LinearSchedule()
    first, second, last = tabulate(DDIM(schedule, 2))
    (alpha_t, alpha_s), (sigma_t, sigma_s) = (
        v.tolist() for v in schedule.alpha_sigma(torch.tensor([1.0, 0.5], dtype=torch.float64))
    )
    assert (first.t, second.t, last.t) == (1.0, 0.5, None) and math.isclose(first.x, sigma_t)
    assert math.isclose(second.x, sigma_s / sigma_t) and not first.noise and not second.noise
    ((j, b),) = second.x_0
    assert j == 0 and math.isclose(b, alpha_s - sigma_s / sigma_t * alpha_t)
    assert last.x_0 == [(1, pytest.approx(1.0))] and abs(last.x) < 1e-12


def test_a_sampler_that_is_not_linear():
    with pytest.raises(ValueError, match="PredictorCorrector"):
        tabulate(PredictorCorrector(EDMSchedule(), 4))

"""The sampler of flow maps with the exact map of Gaussian data, and what it refuses."""

import pytest
import torch
from torch.testing import assert_close

from src.diffusion.parameterizations import X0
from src.diffusion.schedules import VPSDE, FlowSchedule
from src.samplers.clipping import StaticClip
from src.samplers.flow_map import FlowMapSampler
from src.samplers.pipeline import Pipeline
from src.samplers.time_grids import quadratic_time_grid
from src.utils.errors import UserError
from tests.diffusion.reference import Oracle
from tests.diffusion.test_flow_map import MEAN, STD, exact, gaussian_map

ONE, ZERO = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)


@pytest.mark.parametrize("schedule", [FlowSchedule(), VPSDE()], ids=["flow", "vp_sde"])
@pytest.mark.parametrize(("steps", "grid"), [(1, quadratic_time_grid), (2, quadratic_time_grid), (5, None)])
def test_any_number_of_steps_is_exact(schedule, steps, grid):
    sampler = FlowMapSampler(schedule, steps, **({"time_grid": grid} if grid else {}))
    pipeline = Pipeline(exact(schedule), sampler, (1, 5))
    with pipeline.count_nfe() as cost:
        x = pipeline.sample(6)
    assert cost.evaluations == 6 * steps
    noise = sampler.sample_prior(pipeline.noise(range(6)), torch.empty(6, 1, 5))
    assert_close(x, gaussian_map(schedule, noise, ONE, ZERO).to(x.dtype), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.4, 1.0])
def test_new_noise_keeps_the_distribution(gamma):
    """Mean and standard deviation of 20,000 samples, and the states between have the noise of their time."""
    schedule = FlowSchedule()
    pipeline = Pipeline(exact(schedule), FlowMapSampler(schedule, 3, gamma=gamma), (1, 20_000))
    x, path = pipeline.sample_with_trajectory(1, 1)
    assert abs(x.mean() - MEAN) < 4 * STD / 20_000**0.5 and abs(x.std() / STD - 1) < 0.02
    for state, t in zip(path, (1.0, 2 / 3, 1 / 3, 0.0), strict=True):
        assert abs(state.std() / ((1 - t) ** 2 * STD**2 + t**2) ** 0.5 - 1) < 0.02
    plain = Pipeline(exact(schedule), FlowMapSampler(schedule, 3), (1, 20_000)).sample(1)
    assert (x - plain).abs().max() > 0.1, "the noise is new"


def test_the_mean_is_clipped():
    schedule = FlowSchedule()
    x = Pipeline(exact(schedule), FlowMapSampler(schedule, 1, clip=StaticClip(0.2)), (1, 5)).sample(2)
    assert x.abs().max() == 0.2


def test_a_denoiser_is_no_flow_map():
    denoiser = Oracle(lambda x_t, t, cond: x_t, FlowSchedule(), X0())
    with pytest.raises(UserError, match="sampler=flow_map needs a flow map"):
        Pipeline(denoiser, FlowMapSampler(FlowSchedule()), (1, 5))
    with pytest.raises(ValueError, match=r"sampler\.gamma"):
        FlowMapSampler(FlowSchedule(), gamma=1.5)

"""What every sampler promises on any schedule of conf/, with any settings of it, and on any Gaussian data."""

import math
import re
from functools import partial

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.diffusion.test_schedules_properties import NAMES, schedules
from tests.helpers.properties import examples
from tests.samplers.registry import (
    DETERMINISTIC,
    GRIDS,
    ORDER,
    SAMPLERS,
    STOCHASTIC,
    equal_in_log_snr,
    evaluations,
    one_hot,
    seeded,
    tensor,
    walk,
)

pytestmark = pytest.mark.usefixtures("unchecked")
# Those that begin with data; a learned one leaves noise at t = 0.
any_schedule = st.sampled_from([name for name in NAMES if name != "learned"]).flatmap(schedules)
grids = st.sampled_from(list(GRIDS.values()))
means, stds = st.floats(-2, 2), st.floats(0.2, 2)
# Those that follow data of one point exactly. The others integrate a shift of the data along a circle, or by size.
SHIFTED = [name for name in DETERMINISTIC if not name.startswith("adams")] + [
    "ddpm", "ddim half", "ddim ancestral", "dpmpp_2m_sde", "dpmpp_2m_sde half", "dpmpp_3m_sde", "heun churn", "restart",
    "dpm_2 churn", "dpmpp_sde", "dpmpp_sde half",
]  # fmt: skip
# Whose law at a level is exact with many short steps.
CONVERGE = [
    "ddpm", "ddpm large", "ddim half", "ddim ancestral", "dpmpp_2m_sde", "dpmpp_2m_sde half", "dpmpp_3m_sde",
    "euler_maruyama", "dpmpp_sde", "dpmpp_sde half",
]  # fmt: skip


def made(name, schedule, steps, grid):
    """A sampler, if the grid fits the schedule and has so many steps."""
    sampler = SAMPLERS[name](schedule, steps, grid)
    try:
        sampler.times()
    except ValueError as error:
        assert re.search("needs sampler.steps <= schedule.steps|times of the grid must decrease", str(error))
        assume(False)
    return sampler


def posterior_mean(schedule, mean, std, x_t, t):
    """The best denoiser of data from N(mean, std^2)."""
    alpha, sigma = schedule.alpha_sigma(t)
    return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x_t - alpha * mean)


@pytest.mark.parametrize("name", SAMPLERS)
@given(schedule=any_schedule, grid=grids, steps=st.integers(1, 12), mean=means, std=stds)
@examples(0.15)
def test_evaluations(name, schedule, grid, steps, mean, std):
    """As many as stated, each at a time in (0, 1], and with finite samples."""
    # The drift of the SDE is infinite where there is no signal.
    assume(name != "euler_maruyama" or schedule.alpha_sigma(tensor(1.0))[0] > 1e-9)
    sampler, asked = made(name, schedule, steps, grid), []

    def denoise(x_t, t):
        asked.append(float(t))
        return posterior_mean(schedule, mean, std, x_t, t)

    x = walk(sampler, denoise, schedule.alpha_sigma(tensor(1.0))[1] * torch.ones(2, 1).double(), seeded(0))
    assert len(asked) == evaluations(name, sampler, schedule)
    assert all(0 < t <= 1 for t in asked)
    assert x.isfinite().all()


@pytest.mark.parametrize("name", SHIFTED)
@given(schedule=any_schedule, grid=grids, steps=st.integers(1, 8), scale=st.floats(0.3, 3), shift=means)
@examples(0.15)
def test_samplers_commute_with_scale_and_shift_of_the_data(name, schedule, grid, steps, scale, shift):
    """Whatever the denoiser, where the noise has the scale as well."""
    sampler = made(name, schedule, steps, grid)
    alpha_1, sigma_1 = schedule.alpha_sigma(tensor(1.0))
    x_1 = sigma_1 * torch.linspace(-2, 2, 5).double()[:, None]

    def denoise(x_t, t):
        alpha, sigma = schedule.alpha_sigma(t)
        return torch.tanh(x_t / (alpha**2 + sigma**2).sqrt() + t)

    def moved(x_t, t):
        return scale * denoise((x_t - schedule.alpha_sigma(t)[0] * shift) / scale, t) + shift

    draws, again = seeded(0), seeded(0)
    x = walk(sampler, denoise, x_1, draws)
    there = walk(sampler, moved, scale * x_1 + alpha_1 * shift, lambda x: scale * again(x))
    # Rounding errors are those of the largest sample on the way, or at the end of a step that extrapolates far.
    assert (there - (scale * x + shift)).abs().max() <= 1e-9 * (1 + sigma_1 + x.abs().max())


def errors(make, schedule, mean, std, steps):
    """Of the mean and the standard deviation, relative, after a walk from t = 0.95 to 0.15 from the law there."""
    times = equal_in_log_snr(schedule, steps)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (schedule.alpha_sigma(t) for t in (times[0], times[-1]))
    std_t, std_s = (alpha_t**2 * std**2 + sigma_t**2).sqrt(), (alpha_s**2 * std**2 + sigma_s**2).sqrt()
    x = alpha_t * mean + torch.zeros(2 * steps + 2, 1).double()  # at most two draws a step
    x[0] += std_t
    end = walk(make(schedule, steps), partial(posterior_mean, schedule, mean, std), x, one_hot(1), times=times)
    # Each draw is a one in a row of its own, so that rows are the coefficients of the draws.
    found = ((end - end[-1]) ** 2).sum().sqrt()
    return float(((end[-1, 0] - alpha_s * mean).abs() + (found - std_s).abs()) / std_s)


def steps_of(schedule, length):
    """The number of steps of at most this length in half of the log-SNR."""
    high, low = schedule.log_snr(torch.tensor([0.15, 0.95]).double()).tolist()
    return math.ceil((high - low) / 2 / length)


@pytest.mark.parametrize("name", DETERMINISTIC)
@given(schedule=any_schedule, mean=means, std=stds)
@examples(0.15)
def test_order_of_convergence(name, schedule, mean, std):
    """To the solution of the probability-flow ODE."""
    steps = steps_of(schedule, 0.1)
    assume(2 <= steps <= 150)
    few, many = (errors(DETERMINISTIC[name], schedule, mean, std, n) for n in (steps, 2 * steps))
    order = ORDER[name]
    assert many < {1: 0.1, 2: 1e-2, 3: 2e-3, 4: 2e-3}[order]
    # Errors of both signs may happen to cancel with few steps.
    assert many < few / 2 ** (order - 0.5) + {1: 2e-3, 2: 2e-4, 3: 2e-5, 4: 2e-5}[order]


@pytest.mark.parametrize("name", CONVERGE)
@given(schedule=any_schedule, mean=means, std=stds)
@examples(0.15)
def test_law_of_convergence(name, schedule, mean, std):
    """At the first order at least."""
    assume(name != "euler_maruyama" or schedule.alpha_sigma(tensor(1.0))[0] > 1e-9)
    steps = steps_of(schedule, 0.2)
    assume(2 <= steps <= 60)
    few, many = (errors(STOCHASTIC[name], schedule, mean, std, n) for n in (steps, 4 * steps))
    # Errors of both signs may happen to cancel with few steps.
    assert many < 0.35 * few + 2e-3, (few, many)

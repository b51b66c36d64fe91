import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch.testing import assert_close

from src.diffusion.beta_schedules import CosineSchedule, ExponentialSchedule, LinearSchedule
from src.diffusion.discrete_schedules import AdditiveSchedule, DiscreteVP
from src.diffusion.schedules import expand_like
from src.diffusion.variances import (
    FixedLargeVariance,
    FixedSmallVariance,
    LearnedRangeVariance,
    LearnedVariance,
    log_variance_bounds,
)
from tests.diffusion.expected import ALL, ONE, SHAPES

pytestmark = pytest.mark.strength(1)

S = torch.tensor([0.0, 0.1, 0.3, 0.2505, 0.95], dtype=torch.float64)
T = torch.tensor([0.05, 0.2, 0.9, 0.2508, 1.0], dtype=torch.float64)


def steps_of(n):
    k = torch.arange(n + 1, dtype=torch.float64) / n
    return k[:-1], k[1:]


@pytest.mark.parametrize(
    "make",
    [LinearSchedule, CosineSchedule, ExponentialSchedule, lambda: LinearSchedule(100), lambda: CosineSchedule(10)],
)
def test_bounds_are_those_of_ddpm(make):
    """posterior_log_variance_clipped and log beta of the published code, from the betas, at every k."""
    schedule = make()
    betas = schedule.betas.numpy()
    bar = np.cumprod(1 - betas)
    variance = betas * (1 - np.append(1.0, bar[:-1])) / (1 - bar)
    clipped = np.log(np.append(variance[1], variance[1:]))
    small, large = log_variance_bounds(schedule, *steps_of(len(betas)))
    assert_close(small, torch.from_numpy(clipped), rtol=0, atol=1e-9)
    assert_close(large, torch.from_numpy(np.log(betas)), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("variance", "theirs"), [(FixedSmallVariance(), "fixed_small_log"), (FixedLargeVariance(), "fixed_large_log")]
)
def test_fixed_ones_equal_diffusers(variance, theirs, randn):
    """From the second step on; theirs is of float32, and in `fixed_small_log` gives the standard deviation."""
    x = randn(999, 1, 2)
    s, t = (v[1:] for v in steps_of(1000))
    mine = variance.log_variance(LinearSchedule(), s, t, x, None).flatten()
    scheduler = DDPMScheduler(num_train_timesteps=1000, variance_type=theirs)
    other = torch.stack([scheduler._get_variance(k) for k in range(1, 1000)]).double()
    expected = 2 * other.log() if theirs == "fixed_small_log" else other
    assert_close(mine, expected, rtol=0, atol=1e-3)


def test_learned_range_equals_diffusers(randn):
    output = randn(998, 1, 2)
    s, t = (v[2:] for v in steps_of(1000))
    mine = LearnedRangeVariance().log_variance(LinearSchedule(), s, t, output, output)
    scheduler = DDPMScheduler(num_train_timesteps=1000, variance_type="learned_range")
    theirs = [scheduler._get_variance(k, predicted_variance=output[k - 2].float()) for k in range(2, 1000)]
    assert_close(mine, torch.stack(theirs).double(), rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", ALL)
def test_bounds_by_bayes(name):
    """1 / small = 1 / var(x_s | x_0) + alpha^2 / var(x_t | x_s), and large = var(x_t | x_s)."""
    schedule = ALL[name]()
    small, large = log_variance_bounds(schedule, S[1:], T[1:])
    (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule.alpha_sigma(S[1:]), schedule.alpha_sigma(T[1:])
    gain = alpha_t / alpha_s
    added = sigma_t**2 - gain**2 * sigma_s**2
    assert_close(large.exp(), added, rtol=1e-8, atol=0)
    assert_close(small.exp(), 1 / (1 / sigma_s**2 + gain**2 / added), rtol=1e-8, atol=0)
    assert (small < large).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("steps", [1, 2, 3, 1000])
def test_bounds_are_finite_at_every_step(name, steps):
    """The last step, to s = 0, included."""
    schedule = ALL[name]()
    s, t = steps_of(steps)
    small, large = log_variance_bounds(schedule, s, t)
    assert small.isfinite().all() and large.isfinite().all()
    if steps > 1:  # that of the step before stands in
        assert_close(small[0], log_variance_bounds(schedule, s[1], t[1])[0], rtol=0, atol=1e-12)
        assert_close(
            torch.stack(log_variance_bounds(schedule, s[1], t[1])),
            torch.stack([small[1], large[1]]),
            rtol=0,
            atol=1e-12,
        )
    else:
        assert torch.equal(small, large)


def test_additive_has_a_closed_form():
    """sigma_k^2 = k scale^2, so that small = scale^2 (k - 1) / k and large = scale^2."""
    small, large = log_variance_bounds(AdditiveSchedule(10, 0.3), *steps_of(10))
    k = torch.arange(2, 11, dtype=torch.float64)
    assert_close(small[1:].exp(), 0.09 * (k - 1) / k, rtol=1e-9, atol=0)
    assert_close(large.exp(), torch.full((10,), 0.09).double(), rtol=1e-7, atol=0)


@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_the_network_says(data, dtype, randn):
    schedule, x, output = CosineSchedule(), randn(5, *data).to(dtype), randn(5, *data).to(dtype)
    small, large = (expand_like(v, x) for v in log_variance_bounds(schedule, S, T))

    def log_variance(variance, output):
        value = variance.log_variance(schedule, S, T, x, output)
        assert value.dtype == dtype
        return value.expand_as(x)

    tolerance = {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 1e-5}
    assert_close(log_variance(FixedSmallVariance(), None), small.expand_as(x), **tolerance)
    assert_close(log_variance(FixedLargeVariance(), None), large.expand_as(x), **tolerance)
    one = torch.ones_like(x)
    assert_close(log_variance(LearnedRangeVariance(), -one), small.expand_as(x), **tolerance)
    assert_close(log_variance(LearnedRangeVariance(), one), large.expand_as(x), **tolerance)
    assert_close(log_variance(LearnedRangeVariance(), 0 * one), (small + large).expand_as(x) / 2, **tolerance)
    share = (output + 1) / 2
    assert_close(log_variance(LearnedRangeVariance(), output), share * large + (1 - share) * small, **tolerance)
    assert_close(log_variance(LearnedVariance(), 0 * one), large.expand_as(x), **tolerance)
    assert_close(log_variance(LearnedVariance(), output).exp(), large.exp() * output.exp(), rtol=1e-4, atol=0)


def test_outputs():
    assert [
        v.outputs for v in (FixedSmallVariance(), FixedLargeVariance(), LearnedRangeVariance(), LearnedVariance())
    ] == [1, 1, 2, 2]


def test_one_time_for_the_batch(randn):
    x, output = randn(4, 2, 3), randn(4, 2, 3)
    one = LearnedRangeVariance().log_variance(CosineSchedule(), 0.3 * ONE, 0.4 * ONE, x, output)
    each = LearnedRangeVariance().log_variance(
        CosineSchedule(), (0.3 * ONE).expand(4), (0.4 * ONE).expand(4), x, output
    )
    assert_close(one, each, rtol=0, atol=1e-12)


def test_a_table_of_one_step():
    small, large = log_variance_bounds(DiscreteVP(torch.tensor([0.3])), *steps_of(1))
    assert_close(large.exp(), torch.tensor([0.3]).double(), rtol=1e-6, atol=0)
    assert torch.equal(small, large)

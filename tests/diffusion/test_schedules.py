import copy
import math
import pickle

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch.testing import assert_close

from src.diffusion import beta_schedules, discrete_schedules
from src.diffusion.schedules import (
    VPSDE,
    FlowSchedule,
    LaplaceSchedule,
    LinearVPSchedule,
    Schedule,
    SubVPSDE,
    expand_like,
)
from tests.diffusion.expected import ALL, ONE, SHAPES
from tests.fixtures import ENDS_IN_NOISE, VARIANCE_EXPLODING

pytestmark = pytest.mark.strength(1)

# Irregular, and crowded at both ends.
T = torch.cat(
    [
        torch.logspace(-8, -3, 500, dtype=torch.float64),
        torch.linspace(1e-3, 1, 7919, dtype=torch.float64),
        1 - torch.logspace(-8, -3, 300, dtype=torch.float64),
    ]
).unique()
# Not at the nodes of a table, where the rates jump.
BETWEEN = (torch.tensor([0, 1, 17, 105, 250, 499, 731, 950, 998, 999], dtype=torch.float64) + 0.37) / 1000


@pytest.fixture(params=ALL)
def name(request):
    return request.param


@pytest.fixture
def schedule(name):
    return ALL[name]()


def nodes(steps=1000):
    return torch.arange(steps + 1, dtype=torch.float64) / steps


# ---- what every schedule promises ----


def test_begins_with_data(name, schedule):
    alpha, sigma = schedule.alpha_sigma(0 * ONE)
    if name == "learned":  # a stated rest of noise
        assert_close(schedule.log_snr(0 * ONE), 13.3 * ONE, rtol=0, atol=1e-12)
        return
    assert (alpha, sigma) == (1, 0)
    assert schedule.log_snr(0 * ONE) == torch.inf


def test_ends_in_noise_where_it_says_so(name, schedule):
    alpha, sigma = schedule.alpha_sigma(ONE)
    assert (alpha == 0) == (schedule.log_snr(ONE) == -torch.inf) == (name in ENDS_IN_NOISE)
    if name in ENDS_IN_NOISE:
        assert sigma == 1


def test_preserves_variance_or_signal(name, schedule):
    alpha, sigma = schedule.alpha_sigma(T)
    one = torch.ones_like(T)
    if name in VARIANCE_EXPLODING:
        assert torch.equal(alpha, one)
    elif name == "flow":
        assert_close(alpha + sigma, one, rtol=0, atol=1e-15)
    elif name == "sub_vp_sde":
        assert_close(alpha**2 + sigma, one, rtol=0, atol=1e-14)
    else:
        assert_close(alpha**2 + sigma**2, one, rtol=0, atol=1e-14)


def test_inverse_of_any_log_snr(schedule):
    """Its own and the base class's agree on values that no grid of times gave, also on those beyond the ends."""
    values = torch.linspace(-40, 40, 801, dtype=torch.float64)
    t = schedule.inverse_log_snr(values)
    assert_close(t, Schedule.inverse_log_snr(schedule, values), rtol=0, atol=2e-9)
    first, last = schedule.log_snr(torch.tensor([1e-6, 1 - 1e-6], dtype=torch.float64))
    inside = (values < first) & (values > last)
    assert inside.sum() > 50
    assert_close(schedule.log_snr(t[inside]), values[inside], rtol=0, atol=1e-6)
    ends = schedule.inverse_log_snr(torch.tensor([torch.inf, -torch.inf], dtype=torch.float64))
    assert_close(ends, torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=0, atol=2e-9)


def test_single_precision_is_taken_exactly(schedule):
    """Where the log-SNR is computed from the time itself, and in the inverse of all."""
    t = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.99])
    if type(schedule).log_snr is not Schedule.log_snr:
        assert torch.equal(schedule.log_snr(t), schedule.log_snr(t.double()))
        assert torch.equal(schedule.log_snr_rate(t), schedule.log_snr_rate(t.double()))
    log_snr = torch.tensor([3.3, 0.1, -1.7, -2.9])
    assert torch.equal(schedule.inverse_log_snr(log_snr), schedule.inverse_log_snr(log_snr.double()))


@pytest.mark.most(1)
@pytest.mark.parametrize("name", ["cosine", "sub_vp_sde", "additive", "flow"], indirect=True)
def test_step_by_step_in_samples(schedule):
    """Chains of 50 steps from one x_0: means, variances and covariances along them, each to 5 standard errors."""
    n, x_0, t, g = 20_000, 0.8, nodes(50), torch.Generator().manual_seed(0)
    x, kept = torch.full((n,), x_0, dtype=torch.float64), {}
    for k in range(50):
        alpha_ts, sigma_ts = schedule.transition(t[k], t[k + 1])
        x = alpha_ts * x + sigma_ts * torch.randn(n, generator=g, dtype=torch.float64)
        kept[k + 1] = x
    for k in 1, 20, 50:
        alpha, sigma = schedule.alpha_sigma(t[k])
        assert abs(kept[k].mean() - alpha * x_0) < 5 * sigma / n**0.5
        assert abs(kept[k].var() / sigma**2 - 1) < 5 * (2 / n) ** 0.5
    (_, sigma_s), (_, sigma_t) = schedule.alpha_sigma(t[20]), schedule.alpha_sigma(t[40])
    true = schedule.transition(t[20], t[40])[0] * sigma_s**2
    error = ((sigma_s * sigma_t) ** 2 + true**2).sqrt() / n**0.5
    assert abs(torch.cov(torch.stack([kept[20], kept[40]]))[0, 1] - true) < 5 * error


def test_transition_to_pure_noise():
    """Also where alpha is exactly zero at the end."""
    for name in ENDS_IN_NOISE:
        assert ALL[name]().transition(0.5 * ONE, ONE) == (0, 1)


# ---- the SDE ----


def test_rates_under_inference_mode(schedule):
    with torch.inference_mode():
        drift, diffusion = schedule.drift_diffusion(BETWEEN[3:5].clone())
    assert_close(torch.stack([drift, diffusion]), torch.stack(schedule.drift_diffusion(BETWEEN[3:5])), rtol=0, atol=0)


def test_sde_in_closed_form():
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    beta, integral = 0.1 + 19.9 * t, 0.1 * t + 19.9 / 2 * t**2
    steps, ratio = 1000, math.log(50 / 0.01)
    _, sigma = discrete_schedules.VESDE().alpha_sigma(t)
    closed = {
        VPSDE(): (-beta / 2, beta),
        SubVPSDE(): (-beta / 2, beta * (1 - torch.exp(-2 * integral))),
        FlowSchedule(): (-1 / (1 - t), 2 * t / (1 - t)),
        # The nodes are T - 1 steps apart.
        discrete_schedules.VESDE(): (0 * t, 2 * sigma**2 * ratio * steps / (steps - 1)),
    }
    for schedule, expected in closed.items():
        assert_close(torch.stack(schedule.drift_diffusion(t)), torch.stack(expected), rtol=1e-10, atol=1e-12)


def test_sde_is_not_finite_without_signal():
    for name in "flow", "laplace", "zero_snr":
        drift, diffusion = ALL[name]().drift_diffusion(ONE)
        assert not drift.isfinite() and not diffusion.isfinite()


# ---- the continuous ones ----


def test_continuous_schedules_equal_numpy():
    t = np.linspace(0.001, 0.999, 211)
    integral = 0.3 * t + (12 - 0.3) * t**2 / 2
    log_snr = 0.4 - 0.7 * np.sign(0.5 - t) * np.log(1 - 2 * np.abs(t - 0.5))
    rest = 3 * t / (1 + 2 * t)
    written_again = {
        VPSDE(0.3, 12.0): (np.exp(-integral / 2), np.sqrt(1 - np.exp(-integral))),
        SubVPSDE(0.3, 12.0): (np.exp(-integral / 2), 1 - np.exp(-integral)),
        FlowSchedule(): (1 - t, t),
        LinearVPSchedule(): (1 - t, np.sqrt(1 - (1 - t) ** 2)),
        FlowSchedule(3.0): (1 - rest, rest),
        LaplaceSchedule(0.4, 0.7): (1 / np.sqrt(1 + np.exp(-log_snr)), 1 / np.sqrt(1 + np.exp(log_snr))),
    }
    for schedule, expected in written_again.items():
        mine = torch.stack(schedule.alpha_sigma(torch.from_numpy(t)))
        assert_close(mine, torch.from_numpy(np.stack(expected)), rtol=0, atol=1e-12)


def test_laplace_follows_its_law():
    """P(log-SNR > mean + z) = exp(-z / b) / 2 where t is uniform."""
    z = torch.linspace(0.1, 5, 40, dtype=torch.float64)
    schedule = LaplaceSchedule(mean=-0.3, scale=0.8)
    assert_close(schedule.inverse_log_snr(-0.3 + z), torch.exp(-z / 0.8) / 2, rtol=0, atol=1e-12)
    assert_close(1 - schedule.inverse_log_snr(-0.3 - z), torch.exp(-z / 0.8) / 2, rtol=0, atol=1e-12)


def test_constant_rate_has_an_inverse():
    schedule = VPSDE(5.0, 5.0)
    assert_close(schedule.inverse_log_snr(schedule.log_snr(T)), T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_equals_diffusers(shift):
    theirs = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    alpha, sigma = FlowSchedule(shift).alpha_sigma(nodes()[1:].flip(0))
    assert_close(sigma.float(), theirs.sigmas[:1000], rtol=0, atol=1e-6)
    assert_close(alpha.float(), 1 - theirs.sigmas[:1000], rtol=0, atol=1e-6)


def test_flow_shift_is_a_change_of_time():
    t, s = torch.linspace(0, 1, 101, dtype=torch.float64), 2.5
    moved = s * t / (1 + (s - 1) * t)
    assert_close(
        torch.stack(FlowSchedule(s).alpha_sigma(t)), torch.stack(FlowSchedule().alpha_sigma(moved)), rtol=0, atol=1e-15
    )


BETA_SCHEDULES = (
    beta_schedules.LinearSchedule, beta_schedules.QuadraticSchedule, beta_schedules.ConstantSchedule,
    beta_schedules.ExponentialSchedule, beta_schedules.TanhSchedule, beta_schedules.CosineSchedule,
    beta_schedules.SigmoidSchedule, beta_schedules.PolynomialSchedule,
)  # fmt: skip


@pytest.mark.parametrize("make", [*BETA_SCHEDULES, FlowSchedule, LaplaceSchedule])
@pytest.mark.parametrize("shift", [0.5, 4.0])
def test_shift_moves_the_log_snr(make, shift):
    """The log-SNR changes by -2 log s at every time, at nodes, between them and at the ends."""
    t = T[:-1]
    assert_close(make(shift=shift).log_snr(t), make().log_snr(t) - 2 * math.log(shift), rtol=0, atol=1e-10)


@pytest.mark.parametrize("make", [*BETA_SCHEDULES, FlowSchedule, LaplaceSchedule])
@pytest.mark.parametrize("shift", [0.0, -1.0, math.inf, math.nan])
def test_refuses_an_impossible_shift(make, shift):
    with pytest.raises(ValueError, match=r"schedule\.shift must be finite and > 0"):
        make(shift=shift)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VPSDE(0.0), r"schedule must have 0 < beta_min <= beta_max, got 0.0 and 20.0"),
        (lambda: VPSDE(3.0, 2.0), "got 3.0 and 2.0"),
        (lambda: SubVPSDE(-0.1), "got -0.1 and 20.0"),
        (lambda: SubVPSDE(3.0, 2.0), "got 3.0 and 2.0"),
        (lambda: LaplaceSchedule(scale=0.0), "schedule.scale must be > 0, got 0.0"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- as a part of a model ----


@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_add_noise(schedule, randn, data, dtype):
    x_0, noise, t = randn(3, *data).to(dtype), randn(3, *data).to(dtype), torch.tensor([0, 0.3, 1]).double()
    x_t = schedule.add_noise(x_0, t, noise)
    alpha, sigma = schedule.alpha_sigma(t)
    by_hand = torch.stack([alpha[i] * x_0[i] + sigma[i] * noise[i] for i in range(3)])
    assert_close(x_t, by_hand.to(dtype), rtol=1e-6, atol=1e-6)
    assert_close(schedule.add_noise(x_0, t[1], noise)[1], x_t[1], rtol=1e-6, atol=1e-6)


def test_match():
    x = torch.zeros(2, 3, 4, dtype=torch.float32)
    value = torch.tensor([0.25, 0.5], dtype=torch.float64)
    assert torch.equal(expand_like(value, x) + x, torch.stack([torch.full((3, 4), 0.25), torch.full((3, 4), 0.5)]))
    assert (expand_like(value[0], x) + x).dtype == torch.float32
    third = torch.tensor(1 / 3, dtype=torch.float64)
    assert expand_like(third, x) is third, "in double, with samples of any precision"


@pytest.mark.parametrize("move", [torch.nn.Module.half, torch.nn.Module.bfloat16, torch.nn.Module.float])
def test_precision_survives_moves(name, schedule, move):
    """Half of the nodes of a table would coincide in half precision."""
    if name == "learned":
        pytest.skip("its weights are rounded; see test_learned")
    before = schedule.log_snr(T)
    move(torch.nn.Sequential(schedule, torch.nn.Linear(1, 1)))
    assert torch.equal(schedule.log_snr(T), before)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(schedule, copier):
    assert torch.equal(copier(schedule).log_snr(T), schedule.log_snr(T))


def test_holds_no_weights(name, schedule):
    assert bool(schedule.state_dict()) == (name == "learned")

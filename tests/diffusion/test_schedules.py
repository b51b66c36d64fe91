import copy
import pickle

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch.testing import assert_close

from src.diffusion.schedules import Table, cosine, linear, match

DIFFUSERS_NAME = {linear: "linear", cosine: "squaredcos_cap_v2"}
ONE = torch.tensor(1.0, dtype=torch.float64)


def numpy_betas(make, steps=1000):
    """The same tables, written a second time."""
    if make is linear:
        return (1e-4 + (0.02 - 1e-4) * np.arange(steps) / (steps - 1)) * 1000 / steps
    alpha_bar = [np.cos((k / steps + 0.008) / 1.008 * np.pi / 2) ** 2 for k in range(steps + 1)]
    return np.array([min(1 - alpha_bar[k + 1] / alpha_bar[k], 0.999) for k in range(steps)])


def nodes(steps=1000):
    return torch.arange(steps + 1, dtype=torch.float64) / steps


@pytest.mark.parametrize("make", [linear, cosine])
class TestTables:
    def test_equals_diffusers(self, make):
        theirs = DDPMScheduler(num_train_timesteps=1000, beta_schedule=DIFFUSERS_NAME[make])
        alpha, sigma = make().alpha_sigma(nodes()[1:])
        assert_close(make().betas.float(), theirs.betas, rtol=0, atol=1e-6)
        assert_close((alpha**2).float(), theirs.alphas_cumprod, rtol=0, atol=1e-6)
        assert_close((sigma**2).float(), 1 - theirs.alphas_cumprod, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("steps", [100, 1000, 4000])
    def test_nodes_equal_numpy(self, make, steps):
        betas = torch.from_numpy(numpy_betas(make, steps))
        alpha, sigma = make(steps).alpha_sigma(nodes(steps)[1:])
        assert_close(make(steps).betas, betas, rtol=0, atol=1e-12)
        assert_close(alpha**2, torch.from_numpy(np.cumprod(1 - betas.numpy())), rtol=0, atol=1e-12)
        assert_close(sigma**2, torch.from_numpy(1 - np.cumprod(1 - betas.numpy())), rtol=0, atol=1e-12)

    def test_rounded_times_hit_their_node(self, make):
        """Times computed in ways that differ in the last bits give bit-identical values."""
        schedule = make()
        by_linspace = torch.linspace(1, 0, 1001, dtype=torch.float64).flip(0)
        by_sum = torch.full((1000,), 1e-3, dtype=torch.float64).cumsum(0)
        assert torch.equal(schedule.log_snr(by_linspace), schedule.log_snr(nodes()))
        assert torch.equal(schedule.log_snr(by_sum), schedule.log_snr(nodes()[1:]))

    def test_interpolates_the_log_snr(self, make):
        schedule, k = make(), torch.tensor([1, 17, 500, 998], dtype=torch.float64)
        between = 0.75 * schedule.log_snr(k / 1000) + 0.25 * schedule.log_snr((k + 1) / 1000)
        assert_close(schedule.log_snr((k + 0.25) / 1000), between, rtol=0, atol=1e-9)

    def test_interpolates_the_variance_before_the_first_node(self, make):
        schedule = make()
        _, sigma = schedule.alpha_sigma(torch.tensor([0.0, 0.25e-3, 0.5e-3, 1e-3], dtype=torch.float64))
        share = torch.tensor([0, 0.25, 0.5, 1], dtype=torch.float64)
        assert_close(sigma**2, share * schedule.betas[0], rtol=1e-12, atol=0)

    def test_posterior_is_that_of_ddpm(self, make):
        """Equation 7 of the paper, from the betas, against the form in (alpha, sigma), at every k."""
        schedule = make()
        betas = numpy_betas(make)
        a_bar = np.cumprod(1 - betas)
        a_bar_before = np.concatenate([[1.0], a_bar[:-1]])
        of_x_0 = np.sqrt(a_bar_before) * betas / (1 - a_bar)
        of_x_t = np.sqrt(1 - betas) * (1 - a_bar_before) / (1 - a_bar)
        variance = (1 - a_bar_before) / (1 - a_bar) * betas

        s, t = nodes()[:-1], nodes()[1:]
        (alpha_s, sigma_s), (_, sigma_t) = schedule.alpha_sigma(s), schedule.alpha_sigma(t)
        alpha_ts, sigma_ts = schedule.transition(s, t)
        assert_close(alpha_s * sigma_ts**2 / sigma_t**2, torch.from_numpy(of_x_0), rtol=0, atol=1e-12)
        assert_close(alpha_ts * sigma_s**2 / sigma_t**2, torch.from_numpy(of_x_t), rtol=0, atol=1e-12)
        assert_close((sigma_s * sigma_ts / sigma_t) ** 2, torch.from_numpy(variance), rtol=0, atol=1e-12)
        assert_close(sigma_ts**2, torch.from_numpy(betas), rtol=1e-9, atol=0)

    def test_one_step_is_enough_for_a_table(self, make):
        schedule = Table(torch.tensor([0.3]))
        alpha, sigma = schedule.alpha_sigma(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
        expected = torch.tensor([0, 0.15, 0.3], dtype=torch.float64)
        assert_close(sigma**2, expected, rtol=0, atol=1e-7)
        assert_close(alpha**2, 1 - expected, rtol=0, atol=1e-7)


def test_falls_strictly(schedule):
    """Also between the nodes of a table, and close to both ends."""
    t = torch.cat(
        [torch.logspace(-8, -3, 500, dtype=torch.float64), torch.linspace(1e-3, 1, 7919, dtype=torch.float64)]
    )
    t = t.unique()
    assert (schedule.log_snr(t).diff() < 0).all()


def test_data_at_time_zero(schedule):
    alpha, sigma = schedule.alpha_sigma(0 * ONE)
    assert (alpha, sigma) == (1, 0)
    assert schedule.log_snr(0 * ONE) == torch.inf


@pytest.mark.parametrize("name", ["linear", "cosine", "trigonometric"])
def test_preserves_variance(name, make_schedule):
    alpha, sigma = make_schedule(name).alpha_sigma(torch.linspace(0, 1, 4321, dtype=torch.float64))
    assert_close(alpha**2 + sigma**2, torch.ones(4321, dtype=torch.float64), rtol=0, atol=1e-14)


def test_log_snr_is_that_of_alpha_and_sigma(schedule):
    t = torch.linspace(0.001, 0.999, 997, dtype=torch.float64)
    alpha, sigma = schedule.alpha_sigma(t)
    assert_close(schedule.log_snr(t), torch.log(alpha**2 / sigma**2), rtol=0, atol=1e-10)


def test_inverse_log_snr(schedule):
    t = torch.cat([torch.tensor([1e-6, 1e-4], dtype=torch.float64), torch.linspace(0.01, 1, 331, dtype=torch.float64)])
    assert_close(schedule.inverse_log_snr(schedule.log_snr(t)), t, rtol=0, atol=2e-9)


def test_inverse_log_snr_stays_in_range(schedule):
    ends = schedule.inverse_log_snr(torch.tensor([torch.inf, -torch.inf], dtype=torch.float64))
    assert_close(ends, torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=0, atol=2e-9)


def test_transitions_compose(schedule):
    """Noise added to level s and then to t has the law of one jump to t; s = 0 gives the marginal."""
    s, t, u = torch.tensor([[0, 0.1, 0.3, 0.2505], [0.2, 0.11, 0.6, 0.2508], [0.9, 0.3, 0.99, 0.2512]]).double()
    (alpha_ts, sigma_ts), (alpha_ut, sigma_ut) = schedule.transition(s, t), schedule.transition(t, u)
    alpha_us, sigma_us = schedule.transition(s, u)
    assert_close(alpha_ut * alpha_ts, alpha_us, rtol=1e-12, atol=0)
    assert_close(alpha_ut**2 * sigma_ts**2 + sigma_ut**2, sigma_us**2, rtol=1e-9, atol=0)
    assert_close(torch.stack(schedule.transition(0 * t, t)), torch.stack(schedule.alpha_sigma(t)), rtol=1e-12, atol=0)

    alpha_s, sigma_s = schedule.alpha_sigma(s)
    marginal = torch.stack([alpha_ts * alpha_s, (alpha_ts**2 * sigma_s**2 + sigma_ts**2).sqrt()])
    assert_close(marginal, torch.stack(schedule.alpha_sigma(t)), rtol=1e-12, atol=0)


def test_transition_to_pure_noise(make_schedule):
    """Also where alpha is exactly zero at the end."""
    for name in "trigonometric", "flow":
        assert make_schedule(name).transition(0.5 * ONE, ONE) == (0, 1)


def test_linear_has_one_limit():
    """The amount of noise does not depend on T; the error of a step is of order 1 / T."""
    t = torch.linspace(0.1, 1, 10, dtype=torch.float64)
    log_alpha = -(1e-4 * t + (0.02 - 1e-4) * t**2 / 2) * 1000 / 2  # the integral of beta
    errors = [(linear(steps).alpha_sigma(t)[0].log() - log_alpha).abs().max() for steps in (100, 1000, 4000)]
    assert errors[1] < 0.02 * log_alpha.abs().max()
    assert 8 < errors[0] / errors[1] < 16
    assert 3.8 < errors[1] / errors[2] < 4.2


@pytest.mark.parametrize("data", [(5,), (2, 5), (1, 4, 4), (3, 4, 6)])
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
    assert torch.equal(match(value, x) + x, torch.stack([torch.full((3, 4), 0.25), torch.full((3, 4), 0.5)]))
    assert (match(value[0], x) + x).dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear(20), "at least 21 steps"),
        (lambda: linear(5), "schedule.steps=5"),
        (lambda: linear(1000, beta_min=-1e-4), "beta_1 = -0.0001"),
        (lambda: linear(1000, beta_min=0.0), "beta_1 = 0"),
        (lambda: linear(0), "schedule.steps is at least 1, not 0"),
        (lambda: cosine(0), "schedule.steps is at least 1, not 0"),
        (lambda: cosine(beta_max=1.0), "beta_1000 = 1"),
        (lambda: Table(torch.tensor([0.1, 1.5])), "beta_2 = 1.5"),
        (lambda: Table(torch.tensor([0.1, torch.nan])), "beta_2 = nan"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_fewest_steps_of_linear():
    assert linear(21).betas.max() < 1


@pytest.mark.parametrize("make", [linear, cosine])
@pytest.mark.parametrize("move", [torch.nn.Module.half, torch.nn.Module.bfloat16, torch.nn.Module.float])
def test_precision_survives_moves(make, move):
    """Half of the nodes of a table would coincide in half precision."""
    moved = torch.nn.Sequential(make(), torch.nn.Linear(1, 1))
    move(moved)
    assert torch.equal(moved[0].log_snr(nodes()), make().log_snr(nodes()))


@pytest.mark.parametrize("make", [linear, cosine])
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(make, copier):
    t = torch.linspace(0, 1, 77, dtype=torch.float64)
    assert torch.equal(copier(make()).log_snr(t), make().log_snr(t))


def test_holds_no_weights(schedule):
    assert not schedule.state_dict()

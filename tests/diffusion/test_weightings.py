import inspect
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import softplus
from torch.testing import assert_close

from src.diffusion import weightings as w
from src.diffusion.beta_schedules import LinearSchedule
from src.diffusion.denoiser import Denoiser
from src.diffusion.discrete_schedules import VESDE
from src.diffusion.losses import MSE
from src.diffusion.parameterizations import EDM, X0
from src.diffusion.schedules import VPSDE, FlowSchedule, expand_like
from tests.diffusion.expected import ALL, ONE, SHAPES, SINGULAR, TRUTHS
from tests.fixtures import ENDS_IN_NOISE

pytestmark = pytest.mark.strength(1, "name", "part")

T = torch.tensor([1e-3, 0.0137, 0.1234, 0.5, 0.9, 0.9987], dtype=torch.float64)

# The same formulas from alpha, sigma: of the squared error of x_0.
AGAIN = {
    "uniform": (w.uniform_weighting, lambda a, s: np.ones_like(s)),
    "simple": (w.simple_weighting, lambda a, s: a**2 / s**2),
    "v": (w.v_weighting, lambda a, s: (a**2 + s**2) / s**2),
    "flow": (w.flow_weighting, lambda a, s: (a / s + 1) ** 2),
    "truncated_snr": (w.truncated_snr_weighting, lambda a, s: np.maximum(a**2 / s**2, 1)),
    "min_snr": (w.min_snr_weighting, lambda a, s: np.minimum(a**2 / s**2, 5)),
    "min_snr_2": (partial(w.min_snr_weighting, gamma=2.0), lambda a, s: np.minimum(a**2 / s**2, 2)),
    "soft_min_snr": (w.soft_min_snr_weighting, lambda a, s: 5 * a**2 / (a**2 + 5 * s**2)),
    "soft_min_snr_4": (partial(w.soft_min_snr_weighting, gamma=4.0), lambda a, s: 1 / (s**2 / a**2 + 1 / 4)),
    "p2": (w.p2_weighting, lambda a, s: a**2 / (a**2 + s**2)),
    "p2_2": (partial(w.p2_weighting, gamma=0.5, k=3.0), lambda a, s: a**2 / s**2 / np.sqrt(3 + a**2 / s**2)),
    # lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, of table 1, at sigma / alpha.
    "edm": (w.edm_weighting, lambda a, s: ((s / a) ** 2 + 0.25) / (s / a * 0.5) ** 2),
    "edm_2": (partial(w.edm_weighting, sigma_data=2.0), lambda a, s: ((s / a) ** 2 + 4) / (s / a * 2) ** 2),
}
# Those that are stated for a noise level: omega, of the squared error of the noise, and its integral over the log-SNR.
OF_LEVELS = {
    "likelihood": (w.likelihood_weighting, lambda log_snr: torch.ones_like(log_snr), lambda log_snr: log_snr),
    "sigmoid": (
        w.sigmoid_weighting,
        lambda log_snr: torch.sigmoid(2 - log_snr),
        lambda log_snr: -softplus(2 - log_snr),
    ),
    "sigmoid_-1": (
        partial(w.sigmoid_weighting, bias=-1.0),
        lambda log_snr: torch.sigmoid(-1 - log_snr),
        lambda log_snr: -softplus(-1 - log_snr),
    ),
}
EVERY = {name: weighting for name, (weighting, *_) in {**AGAIN, **OF_LEVELS}.items()}


@pytest.fixture(params=ALL)
def name(request):
    return request.param


@pytest.fixture
def schedule(name):
    return ALL[name]()


class Fixed(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x, c_noise, cond):
        return self.output


# ---- formulas ----


@pytest.mark.parametrize("weighting", AGAIN)
def test_equals_numpy(weighting, schedule):
    alpha, sigma = (v.numpy() for v in schedule.alpha_sigma(T))
    mine, again = AGAIN[weighting]
    assert_close(mine(schedule, T), torch.from_numpy(again(alpha, sigma)), rtol=1e-9, atol=1e-15)


def test_every_one_is_tested():
    """None is left out of the table above."""
    helpers = {"snr_at", "clamp_from_ends", "noise_level_rate"}
    functions = {f for f, _ in inspect.getmembers(w, inspect.isfunction)} - helpers
    assert functions == {getattr(weighting, "func", weighting).__name__ for weighting in EVERY.values()}


def test_likelihood_is_half_the_rate_of_the_snr(schedule):
    """Central differences, between the nodes of a discrete schedule."""
    t, h = (torch.tensor([1, 17, 105, 499, 731, 950, 998], dtype=torch.float64) + 0.37) / 1000, 1e-7

    def snr(t):
        alpha, sigma = schedule.alpha_sigma(t)
        return (alpha / sigma) ** 2

    assert_close(w.likelihood_weighting(schedule, t), -(snr(t + h) - snr(t - h)) / (4 * h), rtol=1e-5, atol=1e-9)


def test_likelihood_in_closed_form():
    t = torch.linspace(0.01, 1, 100, dtype=torch.float64)
    beta, decay = 0.1 + 19.9 * t, torch.exp(-(0.1 * t + 9.95 * t**2))
    assert_close(w.likelihood_weighting(VPSDE(), t), beta * decay / (1 - decay) ** 2 / 2, rtol=1e-4, atol=0)
    assert_close(
        w.likelihood_weighting(VPSDE(), t[:-1]), (beta * decay / (1 - decay) ** 2 / 2)[:-1], rtol=1e-10, atol=0
    )
    assert_close(w.likelihood_weighting(FlowSchedule(), t), (1 - t) / t**3, rtol=1e-9, atol=1e-5)
    # Where the signal ends, alpha^2 / sigma^2 falls evenly over the last step.
    schedule = LinearSchedule(zero_terminal_snr=True)
    last = schedule.log_snr(torch.tensor(0.999, dtype=torch.float64)).exp() * 1000 / 2
    ends = torch.tensor([0.9991, 0.9999, 1], dtype=torch.float64)
    assert_close(w.likelihood_weighting(schedule, ends), last.expand(3), rtol=1e-5, atol=0)


# ---- identities ----


def test_identities(schedule):
    one = torch.ones_like(T)
    snr = w.simple_weighting(schedule, T)
    assert_close(snr.log(), schedule.log_snr(T), rtol=0, atol=1e-10)
    assert_close(w.edm_weighting(schedule, T, sigma_data=1.0), w.v_weighting(schedule, T), rtol=1e-12, atol=0)
    assert_close(w.min_snr_weighting(schedule, T, gamma=1e12), snr, rtol=1e-12, atol=0)
    assert_close(w.min_snr_weighting(schedule, T, gamma=1e-12), 1e-12 * one, rtol=1e-9, atol=0)
    assert_close(w.soft_min_snr_weighting(schedule, T, gamma=1e15), snr, rtol=1e-6, atol=0)
    assert (w.soft_min_snr_weighting(schedule, T) <= w.min_snr_weighting(schedule, T)).all()
    assert (w.soft_min_snr_weighting(schedule, T) >= w.min_snr_weighting(schedule, T) / 2).all()
    assert_close(
        w.min_snr_weighting(schedule, T, gamma=1.0) + w.truncated_snr_weighting(schedule, T),
        snr + 1,
        rtol=1e-12,
        atol=0,
    )
    assert_close(w.p2_weighting(schedule, T, gamma=0.0), snr, rtol=1e-12, atol=0)
    assert_close(w.p2_weighting(schedule, T), snr / w.v_weighting(schedule, T), rtol=1e-12, atol=0)
    assert_close(w.sigmoid_weighting(schedule, T, bias=60.0), w.likelihood_weighting(schedule, T), rtol=1e-9, atol=0)


@pytest.mark.parametrize("weighting", OF_LEVELS)
def test_weights_of_noise_levels(weighting, schedule):
    """Half of omega times the error of the noise, SNR times that of x_0, per unit of the log-SNR."""
    mine, omega, _ = OF_LEVELS[weighting]
    log_snr = schedule.log_snr(T)
    expected = 0.5 * log_snr.exp() * omega(log_snr) * -schedule.log_snr_rate(T)
    assert_close(mine(schedule, T), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("weighting", OF_LEVELS)
def test_weights_of_noise_levels_do_not_depend_on_the_schedule(weighting, schedule):
    """Where SNR times the squared error is 1, the mean over t is half the integral of omega over the log-SNR."""
    mine, _, integral = OF_LEVELS[weighting]
    ends = torch.tensor([0.002, 0.998], dtype=torch.float64)
    first, last = schedule.log_snr(ends)
    # The middles of equal parts that the nodes of the tables lie between.
    t = 0.002 + (torch.arange(9960, dtype=torch.float64) + 0.5) / 10_000
    integrand = mine(schedule, t) / w.simple_weighting(schedule, t)
    assert_close(integrand.sum() / 10_000, (integral(first) - integral(last)) / 2, rtol=1e-4, atol=0)


@pytest.mark.parametrize("weighting", EVERY)
def test_finite_from_the_first_time_to_the_last(weighting, schedule):
    t = torch.tensor([1e-5, 1e-3, 0.5, 1 - 1e-9, 1.0], dtype=torch.float64)
    value = EVERY[weighting](schedule, t)
    assert value.dtype == torch.float64 and value.shape == t.shape
    assert value.isfinite().all() and value.float().isfinite().all()
    assert (value >= 0).all() and (value[:3] > 0).all()
    assert_close(EVERY[weighting](schedule, t[2]), value[2], rtol=1e-12, atol=0)


def test_finite_where_there_is_no_noise(schedule):
    """At t = 0 itself, which no training reaches."""
    for weighting in EVERY.values():
        assert weighting(schedule, 0 * ONE).float().isfinite()


# ---- the objective ----

CHOICES = [(s, p) for s in ALL for p in TRUTHS if not (s in ENDS_IN_NOISE and p in SINGULAR)]


@pytest.mark.parametrize(("name", "part"), CHOICES)
@pytest.mark.parametrize("data", SHAPES[1::2])
def test_objectives_are_errors_of_what_they_say(name, part, data, randn):
    """Whatever the network predicts: of the noise, v, the flow's velocity, EDM's output, or the data.

    Each error is that of quantities formed from the predicted and the true data, at the same x_t.
    """
    schedule, parameterization = ALL[name](), TRUTHS[part][0]
    t = T if part != "posterior_mean" else T[1:]
    n = len(t)
    x_0, eps, output = randn(n, *data), randn(n, *data), randn(n, *data)
    denoiser = Denoiser(Fixed(output), schedule, parameterization)
    alpha, sigma = (expand_like(v, x_0) for v in schedule.alpha_sigma(t))
    x_t = alpha * x_0 + sigma * eps
    x_hat = denoiser(x_t, t).x_0
    eps_hat = (x_t - alpha * x_hat) / sigma
    power = (alpha**2 + sigma**2).sqrt()
    _, c_skip, c_out, _ = (expand_like(v, x_0) for v in EDM(0.5).preconditioning(schedule, t))
    errors = {
        w.uniform_weighting: x_hat - x_0,
        w.simple_weighting: eps_hat - eps,
        w.v_weighting: ((alpha * eps_hat - sigma * x_hat) - (alpha * eps - sigma * x_0)) / power,
        w.flow_weighting: (eps_hat - x_hat) - (eps - x_0),
        w.edm_weighting: ((x_hat - c_skip * x_t) - (x_0 - c_skip * x_t)) / c_out,
    }
    for weighting, error in errors.items():
        loss = MSE(weighting)(denoiser, x_0, t, eps)
        assert_close(loss, error.square().flatten(1).mean(1), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("weighting", EVERY)
@pytest.mark.parametrize("name", ["linear", "sub_vp_sde", "ve_sde", "flow"], indirect=True)
def test_objective_does_not_depend_on_the_parameterization(weighting, name, schedule, randn):
    """One function from x_t to x_0, written in every parameterization: the same losses, and the same gradient by it."""
    x_0, eps, guess = randn(len(T), 2, 3), randn(len(T), 2, 3), randn(len(T), 2, 3).requires_grad_()
    x_t = schedule.add_noise(x_0, T, eps)
    results = {}
    for part, (parameterization, _) in TRUTHS.items():
        if name in ENDS_IN_NOISE and part in SINGULAR:
            continue
        _, c_skip, c_out, _ = (expand_like(v, x_0) for v in parameterization.preconditioning(schedule, T))
        denoiser = Denoiser(Fixed((guess - c_skip * x_t) / c_out), schedule, parameterization)
        losses = MSE(EVERY[weighting])(denoiser, x_0, T, eps)
        results[part] = losses.detach(), torch.autograd.grad(losses.sum(), guess)[0]
    true = expand_like(EVERY[weighting](schedule, T), x_0)
    for losses, gradient in results.values():
        assert_close(losses, (true * (guess - x_0).square()).flatten(1).mean(1).detach(), rtol=1e-6, atol=1e-9)
        assert_close(gradient, (2 * true * (guess - x_0) / 6).detach(), rtol=1e-6, atol=1e-9)


def test_unit_weight_of_edm():
    """Under its own weighting the network's output has the plain squared error, whatever the noise level."""
    schedule, x_0, eps = VESDE(), torch.zeros(len(T), 1, 4).double(), torch.ones(len(T), 1, 4).double()
    part = EDM(0.5)
    _, c_skip, c_out, _ = (expand_like(v, x_0) for v in part.preconditioning(schedule, T))
    target = (x_0 - c_skip * schedule.add_noise(x_0, T, eps)) / c_out
    losses = MSE(w.edm_weighting)(Denoiser(Fixed(target + 0.3), schedule, part), x_0, T, eps)
    assert_close(losses, torch.full((len(T),), 0.09).double(), rtol=1e-6, atol=0)
    # and not so under another
    other = MSE(w.simple_weighting)(Denoiser(Fixed(x_0 + 0.3), schedule, X0()), x_0, T, eps)
    assert other.max() > 10 * other.min()

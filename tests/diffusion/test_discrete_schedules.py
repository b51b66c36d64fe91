import inspect
import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, EulerDiscreteScheduler, ScoreSdeVeScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from diffusers.schedulers.scheduling_ddpm import betas_for_alpha_bar
from torch.testing import assert_close

from src.diffusion.beta_schedules import (
    ConstantSchedule,
    CosineSchedule,
    ExponentialSchedule,
    LinearSchedule,
    PolynomialSchedule,
    QuadraticSchedule,
    ScaledLinearSchedule,
    SigmoidSchedule,
    TanhSchedule,
)
from src.diffusion.discrete_schedules import VESDE, AdditiveSchedule, DiscreteVE, DiscreteVP, EDMSchedule
from src.diffusion.schedules import VPSDE, LaplaceSchedule
from tests.diffusion.expected import ONE

pytestmark = pytest.mark.strength(1)

BETA_SCHEDULES = [
    LinearSchedule,
    QuadraticSchedule,
    ConstantSchedule,
    ExponentialSchedule,
    TanhSchedule,
    CosineSchedule,
    SigmoidSchedule,
    PolynomialSchedule,
]
SIGMA_SCHEDULES = [VESDE, EDMSchedule, AdditiveSchedule]


def nodes(steps=1000):
    return torch.arange(steps + 1, dtype=torch.float64) / steps


def from_alpha_bar(f, steps):
    bar = [f(k / steps) for k in range(steps + 1)]
    return np.array([min(1 - bar[k + 1] / bar[k], 0.999) for k in range(steps)])


# The same betas, written a second time: functions of the share u in [0, 1] of the way, in units of 1000 / T.
RATES = {
    LinearSchedule: lambda u: 1e-4 * (1 - u) + 0.02 * u,
    QuadraticSchedule: lambda u: (1e-4**0.5 * (1 - u) + 0.02**0.5 * u) ** 2,
    ConstantSchedule: lambda u: 0.01 + 0 * u,
    ExponentialSchedule: lambda u: 1e-4 * 500**u,
    TanhSchedule: lambda u: 1e-4 + 0.0199 / (1 + np.exp(-6 * (2 * u - 1))),
}
ALPHA_BAR = {
    CosineSchedule: lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2,
    SigmoidSchedule: lambda t: 1 / (1 + math.exp(-3)) - 1 / (1 + math.exp(-(6 * t - 3))),
}


def polynomial(steps):
    """As in the code for molecules: alpha^2 from t = 0 on, the ratios clipped, and the precision kept off both ends."""
    bar = np.concatenate([[1], (1 - (np.arange(steps + 1) / steps) ** 2) ** 2])
    bar = np.cumprod(np.clip(bar[1:] / bar[:-1], 1e-3, 1)) * (1 - 2e-5) + 1e-5
    bar[0] = 1  # t = 0 has no noise here
    return 1 - bar[1:] / bar[:-1]


def numpy_betas(make, steps):
    if make is PolynomialSchedule:
        return polynomial(steps)
    if make in ALPHA_BAR:
        return from_alpha_bar(ALPHA_BAR[make], steps)
    return RATES[make](np.arange(steps) / (steps - 1)) * 1000 / steps


# ---- variance-preserving tables ----


@pytest.mark.parametrize("make", BETA_SCHEDULES)
@pytest.mark.parametrize("steps", [100, 1000, 4000])
def test_tables_equal_numpy(make, steps):
    betas = numpy_betas(make, steps)
    alpha, sigma = make(steps).alpha_sigma(nodes(steps)[1:])
    bar = torch.from_numpy(np.cumprod(1 - betas))
    assert_close(make(steps).betas, torch.from_numpy(betas), rtol=1e-9, atol=0)
    assert_close(alpha**2, bar, rtol=0, atol=1e-12)
    assert_close(sigma**2, 1 - bar, rtol=0, atol=1e-12)
    assert_close(sigma[0] ** 2, torch.tensor(betas[0]), rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("schedule", "alpha_bar"),
    [
        (
            SigmoidSchedule(50, start=-1.0, end=4.0, tau=0.7),
            lambda t: 1 / (1 + math.exp((5 * t - 1) / 0.7)) - 1 / (1 + math.exp(4 / 0.7)),
        ),
        (CosineSchedule(50, offset=0.1, beta_max=0.5), lambda t: math.cos((t + 0.1) / 1.1 * math.pi / 2) ** 2),
        (PolynomialSchedule(50, power=3.0, precision=1e-3, ratio_min=0.3), lambda t: (1 - t**3) ** 2),
    ],
    ids=["sigmoid", "cosine", "polynomial"],
)
def test_other_settings_equal_numpy(schedule, alpha_bar):
    """Of every argument another than the default."""
    bar = np.array([alpha_bar(k / 50) for k in range(51)])
    ratios = bar[1:] / bar[:-1]
    if isinstance(schedule, CosineSchedule):
        ratios = np.maximum(ratios, 0.5)
    if isinstance(schedule, PolynomialSchedule):
        whole = np.concatenate([[1], np.cumprod(np.maximum(ratios, 0.3)) * (1 - 2e-3) + 1e-3])
        ratios = whole[1:] / whole[:-1]
    else:
        ratios = np.maximum(ratios, 1 - 0.999)
    assert schedule.betas.numpy() == pytest.approx(1 - ratios, rel=1e-9)


@pytest.mark.parametrize(
    ("make", "theirs"),
    [
        (LinearSchedule, {"beta_schedule": "linear"}),
        (QuadraticSchedule, {"beta_schedule": "scaled_linear"}),
        (
            ScaledLinearSchedule,
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        ),
        (CosineSchedule, {"beta_schedule": "squaredcos_cap_v2"}),
        (TanhSchedule, {"beta_schedule": "sigmoid"}),
        (
            lambda: ConstantSchedule(beta=1 - math.exp(-0.012)),
            {"trained_betas": betas_for_alpha_bar(1000, 0.999, "exp").numpy()},
        ),
        (lambda: LinearSchedule(zero_terminal_snr=True), {"beta_schedule": "linear", "rescale_betas_zero_snr": True}),
    ],
    ids=["linear", "quadratic", "scaled_linear", "cosine", "tanh", "constant", "zero_snr"],
)
def test_tables_equal_diffusers(make, theirs):
    scheduler = DDPMScheduler(num_train_timesteps=1000, **theirs)
    alpha, sigma = make().alpha_sigma(nodes()[1:])
    assert_close(make().betas.float(), scheduler.betas, rtol=0, atol=1e-5)
    assert_close((alpha**2).float(), scheduler.alphas_cumprod, rtol=0, atol=2e-6)
    assert_close((sigma**2).float(), 1 - scheduler.alphas_cumprod, rtol=0, atol=2e-6)


def test_laplace_equals_diffusers():
    """Whose alpha-bar is the root of alpha^2, divided by that at t = 0, and which keeps 1e-6 off both ends."""
    t, margin = nodes()[1:], 0.5e-6
    near = torch.where(t <= 0.5, t + margin, t - margin)
    alpha, _ = LaplaceSchedule().alpha_sigma(near)
    first, _ = LaplaceSchedule().alpha_sigma(torch.tensor(margin, dtype=torch.float64))
    theirs = torch.cumprod(1 - betas_for_alpha_bar(1000, 0.999, "laplace").double(), 0)
    assert_close(alpha / first, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", BETA_SCHEDULES)
@pytest.mark.parametrize("steps", [60, 1000])
def test_zero_terminal_snr(make, steps):
    schedule, plain, end = make(steps, zero_terminal_snr=True), make(steps), nodes(steps)
    assert schedule.alpha_sigma(ONE) == (0, 1)
    assert schedule.log_snr(ONE) == -torch.inf
    assert_close(schedule.log_snr(end[1]), plain.log_snr(end[1]), rtol=0, atol=1e-9)
    alpha = np.sqrt(np.cumprod(1 - numpy_betas(make, steps)))
    written_again = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    assert_close(schedule.alpha_sigma(end[1:])[0], torch.from_numpy(written_again), rtol=0, atol=1e-12)
    theirs = torch.cumprod(1 - rescale_zero_terminal_snr(plain.betas), 0)
    assert_close(schedule.alpha_sigma(end[1:])[0] ** 2, theirs, rtol=0, atol=1e-7)
    assert schedule.betas[-1] == 1


@pytest.mark.parametrize("make", BETA_SCHEDULES)
def test_signal_fades_evenly_in_the_last_step_to_zero_snr(make):
    schedule = make(zero_terminal_snr=True)
    alpha, sigma = schedule.alpha_sigma(torch.tensor([0.999, 0.9991, 0.99975, 1], dtype=torch.float64))
    ratio = (alpha / sigma) ** 2
    assert_close(ratio[1:] / ratio[0], torch.tensor([0.9, 0.25, 0], dtype=torch.float64), rtol=1e-9, atol=0)
    assert_close(schedule.inverse_log_snr(ratio.log()), torch.tensor([0.999, 0.9991, 0.99975, 1]).double())


@pytest.mark.parametrize("make", BETA_SCHEDULES)
def test_both_options_at_once(make):
    both, one = make(zero_terminal_snr=True, shift=3.0), make(zero_terminal_snr=True)
    t = torch.linspace(1e-4, 0.9999, 501, dtype=torch.float64)
    assert_close(both.log_snr(t), one.log_snr(t) - 2 * math.log(3), rtol=0, atol=1e-10)
    assert both.alpha_sigma(ONE) == (0, 1)


@pytest.mark.parametrize("make", BETA_SCHEDULES)
def test_signature_names_the_options(make):
    """The check of configs sees the arguments of the betas and the options of every schedule."""
    names = list(inspect.signature(make).parameters)
    assert names[0] == "steps" and names[-2:] == ["zero_terminal_snr", "shift"]
    assert make.__module__ == "src.diffusion.beta_schedules" and make.__doc__
    with pytest.raises(TypeError, match="unexpected keyword"):
        make(shfit=2.0)


# ---- schedules of noise levels ----


@pytest.mark.parametrize("steps", [10, 1000])
@pytest.mark.parametrize(
    ("make", "again"),
    [
        (VESDE, lambda n: np.geomspace(0.01, 50, n)),
        (EDMSchedule, lambda n: (0.002 ** (1 / 7) + np.arange(n) / (n - 1) * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7),
        (AdditiveSchedule, lambda n: 0.1 * np.sqrt(1 + np.arange(n))),
    ],
)
def test_noise_levels_equal_numpy(make, again, steps):
    alpha, sigma = make(steps).alpha_sigma(nodes(steps)[1:])
    assert_close(sigma, torch.from_numpy(again(steps)), rtol=1e-12, atol=0)
    assert (alpha == 1).all()


def test_noise_levels_equal_diffusers():
    n = 18
    karras = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, rho=7.0, sigma_schedule="karras")
    karras.set_timesteps(n)
    discrete = EulerDiscreteScheduler(use_karras_sigmas=True, sigma_min=0.002, sigma_max=80.0)
    discrete.set_timesteps(n)
    geometric = ScoreSdeVeScheduler(num_train_timesteps=n, sigma_min=0.01, sigma_max=50.0)
    for mine, theirs in (
        (EDMSchedule(n), karras.sigmas[:-1].flip(0)),
        (EDMSchedule(n), discrete.sigmas[:-1].flip(0)),
        (VESDE(n), geometric.discrete_sigmas),
    ):
        assert_close(mine.alpha_sigma(nodes(n)[1:])[1].float(), theirs, rtol=1e-5, atol=0)


@pytest.mark.parametrize("steps", [1, 10, 250])
def test_additive_adds_the_same_noise_at_every_step(steps):
    """x_k = x_(k-1) + scale z."""
    t = nodes(steps)
    alpha, sigma = AdditiveSchedule(steps, scale=0.3).transition(t[:-1], t[1:])
    assert (alpha == 1).all()
    assert_close(sigma, torch.full((steps,), 0.3).double(), rtol=1e-7, atol=0)


# ---- between the nodes ----


@pytest.mark.parametrize("make", BETA_SCHEDULES + SIGMA_SCHEDULES)
def test_rounded_times_hit_their_node(make):
    """Times computed in ways that differ in the last bits give bit-identical values."""
    schedule = make(1000)
    by_linspace = torch.linspace(1, 0, 1001, dtype=torch.float64).flip(0)
    by_sum = torch.full((1000,), 1e-3, dtype=torch.float64).cumsum(0)
    assert torch.equal(schedule.log_snr(by_linspace), schedule.log_snr(nodes()))
    assert torch.equal(schedule.log_snr(by_sum), schedule.log_snr(nodes()[1:]))
    assert torch.equal(schedule.log_snr(0.29 * ONE), schedule.log_snr(nodes()[290]))


@pytest.mark.parametrize("make", BETA_SCHEDULES + SIGMA_SCHEDULES)
def test_interpolates_the_log_snr(make):
    schedule, k = make(1000), torch.tensor([1, 17, 500, 998, 999], dtype=torch.float64)
    between = 0.75 * schedule.log_snr(k / 1000) + 0.25 * schedule.log_snr((k + 1) / 1000)
    assert_close(schedule.log_snr((k + 0.25) / 1000), between, rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", BETA_SCHEDULES + SIGMA_SCHEDULES)
def test_ratio_of_noise_and_signal_grows_evenly_before_the_first_node(make):
    schedule, share = make(1000), torch.tensor([0, 1e-5, 0.25, 0.5, 1], dtype=torch.float64)
    alpha, sigma = schedule.alpha_sigma(share / 1000)
    assert_close((sigma / alpha) ** 2, share * (sigma[-1] / alpha[-1]) ** 2, rtol=1e-12, atol=0)


@pytest.mark.parametrize("steps", [1, 2])
def test_few_steps(steps):
    """Schedules of one or two steps."""
    schedule = DiscreteVP(torch.full((steps,), 0.3, dtype=torch.float64))
    alpha, sigma = schedule.alpha_sigma(nodes(steps))
    bar = 0.7 ** torch.arange(steps + 1, dtype=torch.float64)
    assert_close(torch.stack([alpha**2, sigma**2]), torch.stack([bar, 1 - bar]), rtol=0, atol=1e-12)
    t = torch.linspace(0, 1, 37, dtype=torch.float64)
    assert_close(schedule.inverse_log_snr(schedule.log_snr(t)), t, rtol=0, atol=1e-9)
    assert (schedule.log_snr(t).diff() < 0).all()


# ---- many steps ----

RATIO = 80**(1 / 7) - 0.002**(1 / 7)  # fmt: skip
# log alpha, or log sigma, of the continuous process.
LIMITS = {
    LinearSchedule: lambda t: VPSDE(0.1, 20.0).alpha_sigma(t)[0].log(),
    QuadraticSchedule: lambda t: -((0.1**0.5 + (20**0.5 - 0.1**0.5) * t) ** 3 - 0.1**1.5) / (6 * (20**0.5 - 0.1**0.5)),
    ConstantSchedule: lambda t: -5 * t,
    ExponentialSchedule: lambda t: -0.1 * (500**t - 1) / math.log(500) / 2,
    TanhSchedule: lambda t: -(0.1 * t + 9.95 * (t + ((6 * t - 3).cosh().log() - math.log(math.cosh(3))) / 6)) / 2,
    VESDE: lambda t: math.log(0.01) + t * math.log(5000),
    EDMSchedule: lambda t: 7 * (0.002 ** (1 / 7) + t * RATIO).log(),
}


@pytest.mark.parametrize("make", LIMITS)
def test_limit_of_many_steps(make):
    """The error falls as 1 / T, and what is left when that is extrapolated away falls as 1 / T^2."""
    t = torch.linspace(0.1, 1, 10, dtype=torch.float64)

    def log(steps):
        alpha, sigma = make(steps).alpha_sigma(t)
        return (sigma if make in (VESDE, EDMSchedule) else alpha).log()

    def worst(error):
        return float(error.abs().max())

    limit = LIMITS[make](t)
    errors = {steps: log(steps) - limit for steps in (1000, 2000, 4000)}
    assert worst(errors[1000]) < 0.03 * worst(limit)
    assert 1.9 < worst(errors[1000]) / worst(errors[2000]) < 2.1
    assert 1.95 < worst(errors[2000]) / worst(errors[4000]) < 2.05
    left = [worst(2 * errors[2 * steps] - errors[steps]) for steps in (1000, 2000)]
    assert left[0] < 0.02 * worst(errors[1000]) + 1e-9
    assert left[1] < left[0] / 3 + 1e-9


@pytest.mark.parametrize("make", ALPHA_BAR)
def test_laws_of_alpha_hold_at_the_nodes_of_every_table(make):
    """But for the last one, whose beta is clipped; between them the error falls as 1 / T^2, away from that one."""

    def error(steps, t):
        law = torch.tensor([ALPHA_BAR[make](v) / ALPHA_BAR[make](0) for v in t.tolist()], dtype=torch.float64)
        return float((make(steps).alpha_sigma(t)[0] ** 2 - law).abs().max())

    middle = torch.arange(0.1, 0.9, 0.01, dtype=torch.float64) + 0.005
    assert error(100, nodes(100)[1:-1]) < 1e-14
    assert error(1000, nodes(1000)[1:-1]) < 1e-13
    errors = [error(steps, middle + 0.5 / steps - 0.005) for steps in (100, 1000)]
    assert 95 < errors[0] / errors[1] < 105


@pytest.mark.parametrize("steps", [10, 1000])
def test_additive_is_brownian_motion_at_every_number_of_steps(steps):
    sigma = AdditiveSchedule(steps, scale=2 / steps**0.5).alpha_sigma(nodes(steps))[1]
    assert_close(sigma**2, 4 * nodes(steps), rtol=1e-12, atol=0)


# ---- errors ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearSchedule(20), "at least 21 steps"),
        (lambda: LinearSchedule(5), "schedule.steps=5 is too few for a linear schedule"),
        (lambda: QuadraticSchedule(20), "too few for a quadratic schedule"),
        (lambda: ConstantSchedule(10), "at least 11 steps"),
        (lambda: ExponentialSchedule(50), "at least 51 steps"),
        (lambda: TanhSchedule(10), "too few for a tanh schedule"),
        (lambda: LinearSchedule(1000, beta_min=-1e-4), "beta_1 = -0.0001"),
        (lambda: LinearSchedule(1000, beta_min=0.0), "beta_1 = 0"),
        (
            lambda: QuadraticSchedule(beta_min=-1e-4),
            "schedule must have 0 < beta_min <= beta_max, got -0.0001",
        ),
        (lambda: ExponentialSchedule(beta_min=0.0), "schedule must have 0 < beta_min <= beta_max, got 0.0"),
        (lambda: ConstantSchedule(beta=0.0), "beta_1 = 0"),
        *(
            (lambda make=make: make(0), "schedule.steps must be >= 1, got 0")
            for make in [*BETA_SCHEDULES, AdditiveSchedule]
        ),
        *((lambda make=make: make(1), "schedule.steps must be >= 2, got 1") for make in (VESDE, EDMSchedule)),
        (lambda: CosineSchedule(beta_max=1.0), "beta_1000 = 1"),
        (lambda: PolynomialSchedule(precision=0.0, ratio_min=1.0), "beta_1 = 0"),
        (lambda: DiscreteVP(torch.tensor([0.1, 1.5])), "beta_2 = 1.5"),
        (lambda: DiscreteVP(torch.tensor([0.1, torch.nan])), "beta_2 = nan"),
        (lambda: CosineSchedule(1, zero_terminal_snr=True), "zero_terminal_snr=true needs schedule.steps >= 2"),
        (lambda: VESDE(sigma_min=0.0), "schedule must have 0 < sigma_min < sigma_max, got 0.0 and 50.0"),
        (lambda: EDMSchedule(sigma_min=3.0, sigma_max=2.0), "got 3.0 and 2.0"),
        (lambda: EDMSchedule(rho=0.0), "schedule.rho must be > 0, got 0.0"),
        (lambda: AdditiveSchedule(scale=0.0), "sigma_1 = 0"),
        (lambda: AdditiveSchedule(scale=-1.0), "sigma_1 = -1"),
        (lambda: DiscreteVE(torch.tensor([0.1, 0.3, 0.2])), "sigma_3 = 0.2 after 0.3"),
        (lambda: DiscreteVE(torch.tensor([0.1, torch.inf])), "sigma_2 = inf"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_fewest_steps_of_linear():
    assert LinearSchedule(21).betas.max() < 1

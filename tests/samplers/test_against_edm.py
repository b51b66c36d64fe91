r"""The samplers that diffusers lacks against what was published, written out in numpy, with the noise shared.

EDM's sampler, Restart and those of k-diffusion are stated for samples :math:`\tilde x = x / \alpha` with the noise
:math:`\tilde\sigma = \sigma / \alpha`; so is the prediction here. Song's are stated for x.
"""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch

from src.diffusion import beta_schedules, discrete_schedules, schedules
from src.diffusion.variances import FixedLargeVariance
from src.samplers import time_grids
from src.samplers.multistep import DPMpp2M, DPMpp3MSDE
from src.samplers.ode import Heun, HeunVE, Restart
from src.samplers.sde import EulerMaruyama, PredictorCorrector, PredictorCorrectorALD
from tests.samplers.reference import assert_equal
from tests.samplers.registry import SHAPES, equal_in_log_snr, seeded

pytestmark = [pytest.mark.usefixtures("unchecked"), pytest.mark.strength(1)]


def predict(x, sigma):
    """Any prediction of the data."""
    return 1.5 * np.sin(0.5 * x + np.arctan(sigma) - 0.3)


def ours(sampler, x, times=None):
    """Every state of a trajectory, and alpha and sigma there."""

    def denoise(x_t, t):
        alpha, sigma = (float(v) for v in sampler.schedule.alpha_sigma(t))
        return torch.from_numpy(predict(x_t.numpy() / alpha, sigma / alpha))

    states = list(sampler.trajectory(denoise, torch.from_numpy(x), seeded(0), times=times))
    alphas, sigmas = sampler.schedule.alpha_sigma(torch.stack([state.t for state in states]))
    return torch.stack([state.x_t for state in states]), alphas, sigmas


def normal(x):
    """The noise that ours draws."""
    noise = seeded(0)
    return lambda: noise(torch.from_numpy(x)).numpy()


def equal(mine, states, atol=1e-9):
    assert_equal(mine, torch.from_numpy(np.stack(states)), atol)


def edm_levels(steps, high=80.0, low=0.002, rho=7):
    i = np.arange(steps)
    return (high ** (1 / rho) + i / (steps - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho


def heun(x, t, s):
    """A step of algorithm 1 of Karras et al. 2022."""
    d = (x - predict(x, t)) / t
    x_s = x + (s - t) * d
    return x_s if s == 0 else x + (s - t) * (d + (x_s - predict(x_s, s)) / s) / 2


@pytest.mark.parametrize(
    ("steps", "first", "s_churn", "s_min", "s_max", "s_noise"),
    [
        (1, 0, 0, 0, math.inf, 1),
        (18, 0, 0, 0, math.inf, 1),
        (256, 0, 40, 0.05, 50, 1.003),  # ImageNet-64 in the paper
        (18, 0, 80, 0.01, 1, 1.007),  # CIFAR-10 there, with few steps: gamma reaches its bound
        (18, 1, 5, 0, math.inf, 0.9),
    ],
)
def test_edm(steps, first, s_churn, s_min, s_max, s_noise, randn):
    """Algorithm 2 of Karras et al. 2022, at its times, eq. 5.

    Ours adds no noise at t = 1, where there is no more; the cases with churn do not ask for it there, as they begin
    below or have their maximum below.
    """
    options = {"s_churn": s_churn, "s_min": s_min, "s_max": s_max, "s_noise": s_noise}
    sampler = Heun(discrete_schedules.EDMSchedule(), steps, time_grids.karras_time_grid, **options)
    levels = [*(edm_levels(steps) if steps > 1 else [80.0]), 0.0][first:]
    for shape in SHAPES:
        x = 80 * randn(2, *shape).numpy()
        mine, *_ = ours(sampler, x, sampler.times()[first:])
        z, states, churned = normal(x), [x], 0
        for t, s in itertools.pairwise(levels):
            gamma = min(s_churn / steps, math.sqrt(2) - 1) if s_min <= t <= s_max else 0
            t_hat = t + gamma * t
            if gamma > 0:
                x, churned = x + math.sqrt(t_hat**2 - t**2) * s_noise * z(), churned + 1
            x = heun(x, t_hat, s)
            states.append(x)
        assert (churned > 0) == (s_churn > 0)
        equal(mine, states)


@pytest.mark.parametrize("name", ["linear", "cosine", "flow", "sub_vp_sde", "edm"])
def test_heun_of_the_noise_level(name, make_schedule, randn):
    """Algorithm 1 of Karras et al. 2022 for x / alpha, on any schedule."""
    schedule, steps = make_schedule(name), 12
    grid = partial(time_grids.karras_time_grid, sigma_min=0.02, sigma_max=20.0)
    times = schedule.inverse_log_snr(-2 * torch.from_numpy(edm_levels(steps, 20.0, 0.02)).log())
    times = torch.cat([times, torch.zeros(1, dtype=torch.float64)])
    for shape in SHAPES:
        x = 20 * randn(2, *shape).numpy()
        alpha = float(schedule.alpha_sigma(times[0])[0])
        mine, alphas, _ = ours(HeunVE(schedule, steps, grid), alpha * x, times)
        states = [x]
        for t, s in itertools.pairwise([*edm_levels(steps, 20.0, 0.02), 0.0]):
            states.append(heun(states[-1], t, s))
        equal(mine, [a * x for a, x in zip(alphas.tolist(), states, strict=True)])


@pytest.mark.parametrize(
    ("low", "high", "repeats", "steps_per_restart"),
    [(0.2, 1.0, 2, 3), (0.06, 5.0, 3, 4), (0.5, 2.0, 1, 1), (1, 2, 0, 5)],
)
def test_restart(low, high, repeats, steps_per_restart, randn):
    """Algorithm 1 of Xu et al. 2023, whose main backward process has `low` among its times, with steps of EDM."""
    options = {"sigma_min": low, "sigma_max": high, "restarts": repeats, "steps_per_restart": steps_per_restart}
    sampler, main = (
        Restart(discrete_schedules.EDMSchedule(), 12, time_grids.karras_time_grid, **options),
        [*edm_levels(12), 0.0],
    )

    def walk(states, levels):
        for t, s in itertools.pairwise(levels):
            states.append(heun(states[-1], t, s))

    for shape in SHAPES:
        x = 80 * randn(2, *shape).numpy()
        mine, *_ = ours(sampler, x)
        z, states = normal(x), [x]
        walk(states, [*(v for v in main if v > low), low])
        for _ in range(repeats):
            states.append(states[-1] + math.sqrt(high**2 - low**2) * z())
            walk(states, edm_levels(steps_per_restart + 1, high, low))
        walk(states, [low, *(v for v in main if v < low)])
        equal(mine, states)


def dpmpp_sde(x, sigmas, order, eta, z):
    """`sample_dpmpp_2m_sde` (midpoint) and `sample_dpmpp_3m_sde` of k-diffusion."""
    yield x
    known = []  # of the steps before: what was predicted, and their h
    for t, s in itertools.pairwise(sigmas):
        denoised = predict(x, t)
        if s == 0:
            yield denoised
            return
        h = math.log(t) - math.log(s)
        k = h * (1 + eta)
        x = math.exp(-k) * x + (1 - math.exp(-k)) * denoised
        phi_2 = (math.exp(-k) - 1) / k + 1
        phi_3 = phi_2 / k - 0.5
        if known:
            old, h_1 = known[-1]
            d1 = (denoised - old) * h / h_1
            if order == 2:
                x = x + 0.5 * (1 - math.exp(-k)) * d1
            elif len(known) == 1:
                x = x + phi_2 * d1
            else:
                older, h_2 = known[-2]
                r0, r1 = h_1 / h, h_2 / h
                d1_0, d1_1 = (denoised - old) / r0, (old - older) / r1
                d1 = d1_0 + (d1_0 - d1_1) * r0 / (r0 + r1)
                x = x + phi_2 * d1 - phi_3 * (d1_0 - d1_1) / (r0 + r1)
        if eta > 0:
            x = x + z() * s * math.sqrt(1 - math.exp(-2 * h * eta))
        known.append((denoised, h))
        yield x


@pytest.mark.parametrize("name", ["edm", "linear", "cosine", "flow", "sub_vp_sde"])
@pytest.mark.parametrize(("make", "order"), [(DPMpp2M, 2), (DPMpp3MSDE, 3)])
def test_multistep_sdes(make, order, name, make_schedule, randn):
    """At steps of many sizes, on any schedule."""
    schedule = make_schedule(name)
    start = equal_in_log_snr(schedule, 1)[0]
    ways = [time_grids.uniform_time_grid, partial(time_grids.karras_time_grid, sigma_min=0.02)]
    for shape, grid, eta in itertools.product(SHAPES, ways, (0.0, 0.4, 1.0)):
        x = randn(2, *shape).numpy()
        mine, alphas, sigmas = ours(make(schedule, 14, eta=eta), x, grid(schedule, 14, float(start)))
        levels = (sigmas / alphas).tolist()
        states = dpmpp_sde(x / float(alphas[0]), levels, order, eta, normal(x))
        equal(mine, [a * x for a, x in zip(alphas.tolist(), states, strict=True)])


# Song et al. 2021, appendix B and C: beta(t) from 0.1 to 20, its integral, and f / x, g^2, alpha and sigma of each SDE.
def beta(t):
    return 0.1 + t * 19.9


def decay(t):
    return math.exp(-(0.1 * t + 19.9 * t**2 / 2))


def ve(t):
    return 0.01 * 5000 ** ((1000 * t - 1) / 999)  # the first noise level is at t = 1 / 1000


SDES = {
    "vp_sde": (
        schedules.VPSDE(), lambda t: -beta(t) / 2, beta,
        lambda t: math.sqrt(decay(t)), lambda t: math.sqrt(1 - decay(t)),
    ),
    "sub_vp_sde": (
        schedules.SubVPSDE(), lambda t: -beta(t) / 2, lambda t: beta(t) * (1 - decay(t) ** 2),
        lambda t: math.sqrt(decay(t)), lambda t: 1 - decay(t),
    ),
    "ve_sde": (
        discrete_schedules.VESDE(), lambda t: 0.0, lambda t: ve(t) ** 2 * 2 * math.log(5000) * 1000 / 999,
        lambda t: 1.0, ve,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SDES)
def test_euler_maruyama(name, randn):
    r""":math:`x \leftarrow x - (f - g^2 s) \Delta t + g \sqrt{\Delta t} z`, the last step without noise."""
    schedule, f, g_2, alpha, sigma = SDES[name]
    for shape, steps in itertools.product(SHAPES, (1, 7, 50)):
        x = randn(2, *shape).numpy()
        mine, *_ = ours(EulerMaruyama(schedule, steps), x)
        z, states, dt = normal(x), [x], 1 / steps
        for i in range(steps, 0, -1):
            t = i / steps
            score = (alpha(t) * predict(x / alpha(t), sigma(t) / alpha(t)) - x) / sigma(t) ** 2
            x = x - (f(t) * x - g_2(t) * score) * dt
            if i > 1:
                x = x + math.sqrt(g_2(t) * dt) * z()
            states.append(x)
        equal(mine, states)


def norms(x):
    """The norm of each sample."""
    return np.sqrt((x**2).reshape(len(x), -1).sum(1)).reshape(-1, *[1] * (x.ndim - 1))


# epsilon: algorithms 4 and 5, without the factor 1 - beta of the latter, and `ald` of the code.
STEP_SIZES = {
    PredictorCorrector: lambda r, z, score, sigma: 2 * (r * norms(z) / norms(score)) ** 2,
    PredictorCorrectorALD: lambda r, z, score, sigma: 2 * (r * sigma) ** 2,
}


def corrected(x, alpha, sigma, r, corrector_steps, draw, step_size):
    r"""The correctors: :math:`x + \epsilon s + \sqrt{2 \epsilon} z`."""
    for _ in range(corrector_steps):
        score, z = (alpha * predict(x / alpha, sigma / alpha) - x) / sigma**2, draw()
        epsilon = step_size(r, z, score, sigma)
        x = x + epsilon * score + np.sqrt(2 * epsilon) * z
    return x


@pytest.mark.parametrize("corrector_steps", [0, 1, 3])
@pytest.mark.parametrize("name", ["ve", "vp"])
@pytest.mark.parametrize("make", STEP_SIZES)
def test_predictor_corrector(make, name, corrector_steps, randn):
    """Algorithms 2 and 3 with the ancestral predictors of appendix F (eq. 47 and 4), the last step without noise.

    That of the variance-preserving process has the large variance.
    """
    steps, r = 30, 0.16
    if name == "ve":
        levels = 0.01 * 5000 ** (np.arange(steps) / (steps - 1))
        schedule, variance = discrete_schedules.VESDE(steps), {}
    else:
        betas = np.linspace(1e-4, 0.02, steps) * (1000 / steps)
        alphas = np.sqrt(np.cumprod(1 - betas))
        schedule, variance = beta_schedules.LinearSchedule(steps), {"variance": FixedLargeVariance()}
    for shape in SHAPES:
        x = randn(2, *shape).numpy()
        mine, *_ = ours(make(schedule, steps, corrector_steps=corrector_steps, snr=r, **variance), x)
        z, states = normal(x), [x]
        for i in range(steps - 1, -1, -1):
            if name == "ve":
                high, low = levels[i], levels[i - 1] if i else 0.0
                score = (predict(x, high) - x) / high**2
                x = x + (high**2 - low**2) * score
                if i:
                    x = x + math.sqrt(low**2 * (high**2 - low**2) / high**2) * z()
                    x = corrected(x, 1.0, low, r, corrector_steps, z, STEP_SIZES[make])
            else:
                sigma = math.sqrt(1 - alphas[i] ** 2)
                score = (alphas[i] * predict(x / alphas[i], sigma / alphas[i]) - x) / sigma**2
                x = (x + betas[i] * score) / math.sqrt(1 - betas[i])
                if i:
                    x = x + math.sqrt(betas[i]) * z()
                    sigma = math.sqrt(1 - alphas[i - 1] ** 2)
                    x = corrected(x, alphas[i - 1], sigma, r, corrector_steps, z, STEP_SIZES[make])
            states.append(x)
        equal(mine, states)

"""Exact identities between samplers, and of each sampler for simple data."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from src.diffusion import beta_schedules, discrete_schedules, schedules
from src.diffusion.variances import FixedLargeVariance
from src.samplers.ancestral import DDIM, DDPM
from src.samplers.base import SeededNoise
from src.samplers.multistep import AdamsBashforth, DPMpp2M, DPMpp3MSDE, UniPC
from src.samplers.noise_prediction import DPMSolver3, GradientEstimation
from src.samplers.ode import DPMpp2S, Euler, Heun, HeunVE, Restart
from src.samplers.sde import DPMppSDE
from tests.samplers.registry import (
    DETERMINISTIC,
    GRIDS,
    SHAPES,
    STOCHASTIC,
    equal_in_log_snr,
    one_hot,
    seeded,
    tensor,
    walk,
)

pytestmark = pytest.mark.strength(1)


def denoise(x_t, t):
    """Any prediction."""
    return torch.tanh(0.8 * x_t + t - 0.3)


def trajectory(sampler, x_t, seed=0, **where):
    return torch.stack([s.x_t for s in sampler.trajectory(denoise, x_t, seeded(seed), **where)])


@pytest.mark.most(3)
@pytest.mark.parametrize("data", SHAPES)
def test_ancestral_ddim_is_ddpm(data, schedule, randn):
    """At any spacing, with the same noise, at every step."""
    x_1 = randn(2, *data)
    ddim, ddpm = (trajectory(make(schedule, 25), x_1) for make in (STOCHASTIC["ddim ancestral"], DDPM))
    assert_close(ddim, ddpm, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "schedule",
    [
        beta_schedules.LinearSchedule(),
        beta_schedules.CosineSchedule(100),
        beta_schedules.LinearSchedule(300, zero_terminal_snr=True),
        discrete_schedules.VESDE(100),
    ],
    ids=["linear", "cosine", "zero_snr", "ve_sde"],
)
@pytest.mark.usefixtures("unchecked")
def test_ancestral_ddim_is_ddpm_on_all_nodes(schedule, gaussian, randn):
    truth, x_1 = gaussian((3, 5)), randn(2, 3, 5)
    ddim, ddpm = (
        [s.x_t for s in make(schedule, schedule.steps).trajectory(truth.denoiser(schedule), x_1, SeededNoise(range(2)))]
        for make in (STOCHASTIC["ddim ancestral"], DDPM)
    )
    assert len(ddim) == schedule.steps + 1
    assert_close(torch.stack(ddim), torch.stack(ddpm), rtol=1e-9, atol=1e-9)


@pytest.mark.most(3)
@pytest.mark.parametrize("data", SHAPES)
def test_euler_is_deterministic_ddim(data, schedule, randn):
    """A step is the formula of its docstring."""
    x_1 = randn(2, *data)
    euler = trajectory(Euler(schedule, 12), x_1)
    assert_close(euler, trajectory(DDIM(schedule, 12), x_1), rtol=1e-10, atol=1e-10)
    levels = Euler(schedule).noise_levels(Euler(schedule, 12).times())
    for (t, s), x_t, x_s in zip(itertools.pairwise(levels), euler[:-1], euler[1:], strict=True):
        x_0 = denoise(x_t, t.t)
        eps = (x_t - t.alpha * x_0) / t.sigma
        assert_close(x_s, x_t + (s.alpha - t.alpha) * x_0 + (s.sigma - t.sigma) * eps, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.parametrize("make", [Euler, Heun])
def test_on_straight_paths_they_are_the_textbook_methods(make, data, randn):
    r"""Euler's method for :math:`dx / dt = u`, the velocity."""
    schedule, x, steps = schedules.FlowSchedule(), randn(2, *data), 10

    def u(x_t, t):
        t = tensor(t)
        return x_t - denoise(x_t, t) if t == 1 else (x_t - denoise(x_t, t)) / t

    walked = trajectory(make(schedule, steps), x)
    for i in range(steps):
        t, s = 1 - i / steps, 1 - (i + 1) / steps
        slope = u(x, t)
        if make is Heun and i < steps - 1:
            slope = (slope + u(x + (s - t) * slope, s)) / 2
        x = x + (s - t) * slope
        assert_close(walked[i + 1], x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_3m", "unipc 1", "unipc 2", "unipc 3"])
def test_multistep_methods_begin_as_euler(name, schedule, randn):
    x_t = randn(2, 3, 5)
    times = equal_in_log_snr(schedule, 1, 0.8, 0.6)
    expected = walk(Euler(schedule, 1), denoise, x_t, times=times)
    assert_close(walk(DETERMINISTIC[name](schedule, 1), denoise, x_t, times=times), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("make", [DPMpp2M, DPMpp3MSDE])
@pytest.mark.parametrize("start", [1.0, 0.8])
def test_multistep_sdes_begin_as_ddpm(start, make, schedule, randn):
    x_t, times = randn(2, 3, 5), torch.tensor([start, 0.5], dtype=torch.float64)
    expected = walk(DDPM(schedule, 1), denoise, x_t, seeded(0), times=times)
    found = walk(make(schedule, 1, eta=1.0), denoise, x_t, seeded(0), times=times)
    assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_adams_bashforth_of_order_1_is_eulers_method_on_the_circle(schedule, randn):
    r""":math:`x / r` moves by :math:`v\, d\varphi`, where :math:`\alpha + i \sigma = r e^{i \varphi}`."""
    x_t = randn(2, 3, 5)
    times = torch.tensor([0.9, 0.5, 0.0], dtype=torch.float64)
    walked = trajectory(AdamsBashforth(schedule, 2, order=1), x_t, times=times)
    for i in range(2):
        (alpha, sigma), (alpha_s, sigma_s) = schedule.alpha_sigma(times[i]), schedule.alpha_sigma(times[i + 1])
        r, phi = torch.complex(alpha, sigma).abs(), torch.complex(alpha, sigma).angle()
        r_s, phi_s = torch.complex(alpha_s, sigma_s).abs(), torch.complex(alpha_s, sigma_s).angle()
        x_0 = denoise(walked[i], times[i])
        v = (alpha * (walked[i] - alpha * x_0) / sigma - sigma * x_0) / r
        assert_close(walked[i + 1], r_s * (walked[i] / r + (phi_s - phi) * v), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in DETERMINISTIC if not name.startswith("adams")])
def test_data_of_one_point_takes_any_steps(name, schedule, randn):
    """Then x_t moves along a straight line of x / alpha over sigma / alpha, which these methods follow exactly."""
    x_0, eps = randn(1, 3, 5), randn(4, 3, 5)
    for grid, start in itertools.product(GRIDS.values(), [1.0, 0.9]):
        x_t = schedule.add_noise(x_0, tensor(start), eps)
        sampler = DETERMINISTIC[name](schedule, 4, grid)
        for state in sampler.trajectory(lambda x, t: x_0.expand_as(x), x_t, seeded(0), start):
            assert_close(state.x_t, schedule.add_noise(x_0, state.t, eps), rtol=1e-9, atol=1e-9)


FOR_ONE_POINT = [
    "ddpm", "ddim half", "ddim ancestral", "dpmpp_2m_sde", "dpmpp_2m_sde half", "dpmpp_3m_sde", "heun churn", "restart",
    "dpm_2 churn", "dpmpp_sde", "dpmpp_sde half",
]  # fmt: skip


@pytest.mark.parametrize("name", FOR_ONE_POINT)
def test_law_for_data_of_one_point(name, schedule):
    r"""Few steps draw :math:`N(\alpha_s x_0, \sigma_s^2)` exactly at each level: x_1's noise and the draws are ones."""
    sampler = STOCHASTIC[name](schedule, 5)
    alpha, sigma = schedule.alpha_sigma(tensor(1.0))
    x_1 = alpha * torch.full((25, 1), 0.7, dtype=torch.float64)
    x_1[0] += sigma
    for state in sampler.trajectory(lambda x, t: torch.full_like(x, 0.7), x_1, one_hot(1)):
        alpha_s, sigma_s = schedule.alpha_sigma(state.t)
        assert_close(state.x_t[-1, 0], 0.7 * alpha_s, rtol=0, atol=1e-9)
        assert_close(((state.x_t - state.x_t[-1]) ** 2).sum(), sigma_s**2, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["linear", "cosine", "zero_snr", "vp_sde", "laplace", "trigonometric"])
def test_the_large_variance_is_right_for_white_noise(name, make_schedule):
    """Data of N(0, 1) on a process that keeps this variance: every x_s has it, whatever the steps."""
    schedule = make_schedule(name)

    def predict(x_t, t):
        return schedule.alpha_sigma(t)[0] * x_t

    x_1 = torch.zeros(8, 1, dtype=torch.float64)
    x_1[0] = 1
    *states, _ = DDPM(schedule, 6, variance=FixedLargeVariance()).trajectory(predict, x_1, one_hot(1))
    for state in states:
        assert_close((state.x_t**2).sum(), tensor(1.0), rtol=0, atol=1e-9)


def test_dpmpp_2s_is_its_published_form(schedule, randn):
    r"""With :math:`D = (1 - \frac{1}{2r}) \hat x_0 + \frac{1}{2r} \hat x_0'`, r = 1/2."""
    x_t, times = randn(2, 3, 5), equal_in_log_snr(schedule, 2, 0.8, 0.4)
    (_, sigma_t), (alpha_m, sigma_m), (alpha_s, sigma_s) = (schedule.alpha_sigma(t) for t in times)
    h = (schedule.log_snr(times[2]) - schedule.log_snr(times[0])) / 2
    u = sigma_m / sigma_t * x_t - alpha_m * torch.expm1(-h / 2) * denoise(x_t, times[0])
    expected = sigma_s / sigma_t * x_t - alpha_s * torch.expm1(-h) * denoise(u, times[1])
    assert_close(walk(DPMpp2S(schedule, 1), denoise, x_t, times=times[::2]), expected, rtol=1e-8, atol=1e-8)


def noise_at(schedule, x, t):
    alpha, sigma = schedule.alpha_sigma(t)
    return (x - alpha * denoise(x, t)) / sigma


def test_dpm_solver_3_is_its_published_form(schedule, randn):
    """In predictions of the noise, with r_1 = 1 / 3 and r_2 = 2 / 3."""
    x_t, times = randn(2, 3, 5), equal_in_log_snr(schedule, 3, 0.8, 0.4)
    (alpha_t, _), *levels = (schedule.alpha_sigma(t) for t in times)
    h = (schedule.log_snr(times[3]) - schedule.log_snr(times[0])) / 2
    eps, r = noise_at(schedule, x_t, times[0]), (1 / 3, 2 / 3, 1.0)
    first = zip(levels, r, strict=True)
    u, v, x_s = (alpha / alpha_t * x_t - sigma * torch.expm1(q * h) * eps for (alpha, sigma), q in first)
    d_1 = noise_at(schedule, u, times[1]) - eps
    v = v - levels[1][1] * r[1] / r[0] * (torch.expm1(r[1] * h) / (r[1] * h) - 1) * d_1
    d_2 = noise_at(schedule, v, times[2]) - eps
    x_s = x_s - levels[2][1] / r[1] * (torch.expm1(h) / h - 1) * d_2
    assert_close(walk(DPMSolver3(schedule, 1), denoise, x_t, times=times[::3]), x_s, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_gradient_estimation_is_its_published_form(gamma, schedule, randn):
    r"""Euler's method for :math:`x / \alpha` over :math:`\sigma / \alpha`, along the mixed predictions."""
    x_t, times = randn(2, 3, 5), torch.tensor([0.9, 0.6, 0.4, 0.1], dtype=torch.float64)
    walked = trajectory(GradientEstimation(schedule, 3, gamma=gamma), x_t, times=times)
    (alpha, sigma), before = schedule.alpha_sigma(times), None
    for i in range(3):
        eps = noise_at(schedule, walked[i], times[i])
        mixed = eps if before is None else gamma * eps + (1 - gamma) * before
        before = eps
        y = walked[i] / alpha[i] + (sigma[i + 1] / alpha[i + 1] - sigma[i] / alpha[i]) * mixed
        assert_close(walked[i + 1], alpha[i + 1] * y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_dpmpp_sde_is_its_published_form(eta, schedule, randn):
    """As in k-diffusion: each evaluation is followed by an ancestral step of x / alpha from t; their noises overlap."""
    x_t, times, noise = randn(2, 3, 5), equal_in_log_snr(schedule, 2, 0.8, 0.4), seeded(3)
    levels = [schedule.alpha_sigma(t) for t in times]
    (alpha_t, _), ratios = levels[0], [sigma / alpha for alpha, sigma in levels]
    first, second = noise(x_t), noise(x_t)

    def ancestral(data, to, z):
        up = eta * ratios[to] * (1 - (ratios[to] / ratios[0]) ** 2).sqrt()
        down = (ratios[to] ** 2 - up**2).sqrt()
        y = data + down / ratios[0] * (x_t / alpha_t - data) + up * z
        return levels[to][0] * y

    # The noise of the first half, as it is left at the end of the step, and that of the second.
    kept = (ratios[2] / ratios[1]) ** 2 * (1 - (ratios[1] / ratios[0]) ** 2).sqrt()
    c = kept / (1 - (ratios[2] / ratios[0]) ** 2).sqrt() * (ratios[1] / ratios[2])
    x_m = ancestral(denoise(x_t, times[0]), 1, first)
    expected = ancestral(denoise(x_m, times[1]), 2, c * first + (1 - c**2).sqrt() * second)
    found = walk(DPMppSDE(schedule, 1, eta=eta), denoise, x_t, seeded(3), times=times[::2])
    assert_close(found, expected, rtol=1e-7, atol=1e-7)


def test_unipc_corrects_with_the_next_evaluation(schedule, randn):
    """Order 1, two steps, written out: UniP-1 is Euler, UniC-1 adds half of the change of the prediction."""
    x_t, times = randn(2, 3, 5), equal_in_log_snr(schedule, 2, 0.8, 0.4)
    (_, sigma_t), (alpha_m, sigma_m), (alpha_s, sigma_s) = (schedule.alpha_sigma(t) for t in times)
    h = (schedule.log_snr(times[2]) - schedule.log_snr(times[0])) / 4
    x_0 = denoise(x_t, times[0])
    x_m = sigma_m / sigma_t * x_t - alpha_m * torch.expm1(-h) * x_0
    x_0_m = denoise(x_m, times[1])
    x_m = x_m - alpha_m * torch.expm1(-h) * (x_0_m - x_0) / 2
    expected = sigma_s / sigma_m * x_m - alpha_s * torch.expm1(-h) * x_0_m
    assert_close(walk(UniPC(schedule, 2, order=1), denoise, x_t, times=times), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sigma_1", [0.3, 3.0, 1 / 3])
def test_ancestral_ddim_from_noise_of_any_size(sigma_1, randn):
    """Without signal all of the noise is new, and rounding must not make it more than all."""

    class Wide(schedules.Schedule):
        def alpha_sigma(self, t):
            return 1 - t, sigma_1 * t

    x_1 = randn(2, 3, 5)
    for steps in (2, 7, 10, 30):
        ddim, ddpm = (trajectory(make(Wide(), steps), x_1) for make in (STOCHASTIC["ddim ancestral"], DDPM))
        assert_close(ddim, ddpm, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["flow", "zero_snr", "laplace"])
def test_heun_ve_takes_the_step_of_heun_from_pure_noise(name, make_schedule, randn):
    """Later ones are corrected by the ratio of the two signals more."""
    schedule, x_1 = make_schedule(name), randn(2, 3, 5)
    heun, heun_ve = (trajectory(make(schedule, 8), x_1) for make in (Heun, HeunVE))
    assert torch.equal(heun[:2], heun_ve[:2]) and not torch.equal(heun[2], heun_ve[2])
    t, s = HeunVE(schedule).noise_levels(tensor([0.5, 0.4]))
    ratio = HeunVE(schedule).correction_weight(t, s) / Heun(schedule).correction_weight(t, s)
    assert ratio == pytest.approx(s.alpha / t.alpha) and ratio > 1


def test_times_are_no_function_of_a_schedule_that_is_trained():
    class Trained(schedules.FlowSchedule):
        """With a closed form that is a function of its weights."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def inverse_log_snr(self, log_snr):
            return self.weight * super().inverse_log_snr(log_snr)

    for grid in (GRIDS["uniform"], GRIDS["karras"]):
        assert not Restart(Trained(), 8, grid).times().requires_grad

"""The samplers against those of diffusers, with the noise shared and in float64: every state of whole trajectories.

Our time t = k / T is the timestep k - 1 there. What they do not have is in test_against_edm.py.

Not ours, though named alike: PNDM and IPNDM there extrapolate the noise, and our Adams-Bashforth the velocity; KDPM2
takes the noise of its second evaluation for the whole step, and our DPMpp2S the data. Their order 3 with
`sde-dpmsolver++` weighs the bend by (1 - e^-k - k) / k^2 - 1/2, which stays as steps shrink, where + 1/2 would vanish:
ours is checked against k-diffusion's.
"""

import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers import AysSchedules
from omegaconf import OmegaConf
from torch.testing import assert_close

from src.diffusion import discrete_schedules, schedules
from src.diffusion.variances import FixedLargeVariance, LearnedRangeVariance
from src.samplers import time_grids
from src.samplers.ancestral import DDIM, DDPM
from src.samplers.clipping import DynamicClip, StaticClip
from src.samplers.multistep import AdamsBashforth, DPMpp2M, DPMpp3MSDE, UniPC
from src.samplers.noise_prediction import DPM2, PLMS, PNDM
from src.samplers.ode import DPMpp2S, Euler, Heun
from tests.samplers.reference import assert_equal, data, float64, levels_of, ours, scheduler_of, theirs
from tests.samplers.registry import SHAPES

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.usefixtures("unchecked"), pytest.mark.strength(1)]

BETAS = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "tanh": {"beta_schedule": "sigmoid", "beta_start": 1e-4, "beta_end": 0.02},
    "zero_snr": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "rescale_betas_zero_snr": True},
}
SAMPLE = {"prediction_type": "sample"}
FREE = SAMPLE | {"clip_sample": False}
# Their last step has no noise only from the first node: with these spacings it begins there.
TO_NODE_1 = {"clip_sample": False, "timestep_spacing": "leading"}
# The last step is to sigma = 0, of first order, and no other is lowered in its order.
LAST = {"final_sigmas_type": "zero", "lower_order_final": False}
LOWER = LAST | {"lower_order_final": True}
SDE = {"algorithm_type": "sde-dpmsolver++"}
# Our second step is of the kind called heun there; the midpoint of order 2 differs by a higher order.
THIRD = {"solver_order": 3, "solver_type": "heun"}

# Equal steps of a root and of the logarithm of sigma / alpha.
IN_NOISE = {"karras": time_grids.karras_time_grid, "exponential": time_grids.log_snr_time_grid}

# Ours, the scheduler there, its configuration, and the options of its steps.
CASES = {
    "ddpm": (DDPM, DDPMScheduler, {"clip_sample": False, "prediction_type": "v_prediction"}, {}),
    "ddpm large": (
        partial(DDPM, variance=FixedLargeVariance()), DDPMScheduler,
        SAMPLE | TO_NODE_1 | {"variance_type": "fixed_large"}, {},
    ),
    "ddpm learned": (
        partial(DDPM, variance=LearnedRangeVariance()), DDPMScheduler,
        SAMPLE | TO_NODE_1 | {"variance_type": "learned_range"}, {},
    ),
    "ddpm clipped": (partial(DDPM, clip=StaticClip(0.8)), DDPMScheduler, SAMPLE | {"clip_sample_range": 0.8}, {}),
    "ddpm thresholded": (
        partial(DDPM, clip=DynamicClip(0.9)), DDPMScheduler,
        SAMPLE | {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1e9}, {},
    ),
    "ddpm as ancestral euler": (DDPM, EulerAncestralDiscreteScheduler, {}, {}),
    "ddim": (DDIM, DDIMScheduler, {"clip_sample": False}, {}),
    "ddim half": (partial(DDIM, eta=0.5), DDIMScheduler, FREE, {"eta": 0.5}),
    "ddim ancestral": (partial(DDIM, eta=1.0), DDIMScheduler, FREE, {"eta": 1.0}),
    "ddim clipped": (
        partial(DDIM, eta=0.5, clip=StaticClip(0.8)), DDIMScheduler, SAMPLE | {"clip_sample_range": 0.8},
        {"eta": 0.5, "use_clipped_model_output": True},
    ),
    "euler": (Euler, EulerDiscreteScheduler, {}, {}),
    "dpmpp_2m": (DPMpp2M, DPMSolverMultistepScheduler, LAST, {}),
    "dpmpp_2m thresholded": (
        partial(DPMpp2M, clip=DynamicClip(0.9)), DPMSolverMultistepScheduler,
        LAST | {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1e9}, {},
    ),
    "dpmpp_2m_sde": (partial(DPMpp2M, eta=1.0), DPMSolverMultistepScheduler, LAST | SDE, {}),
    "dpmpp_3m": (partial(DPMpp3MSDE, eta=0.0), DPMSolverMultistepScheduler, LAST | SAMPLE | THIRD, {}),
    "unipc 1": (partial(UniPC, order=1), UniPCMultistepScheduler, LAST | {"solver_order": 1}, {}),
    "unipc 2": (UniPC, UniPCMultistepScheduler, LOWER | SAMPLE, {}),
    "unipc 3": (partial(UniPC, order=3), UniPCMultistepScheduler, LOWER | SAMPLE | {"solver_order": 3}, {}),
    "unipc 3 to the end": (
        partial(UniPC, order=3, lower_order_final=False), UniPCMultistepScheduler,
        LAST | SAMPLE | {"solver_order": 3}, {},
    ),
}  # fmt: skip
# Those whose steps know nothing of the ones before.
SINGLE = [name for name in CASES if name.startswith(("ddpm", "ddim", "euler"))]


def compare(name, schedule, betas, steps, x, atol=1e-9):
    make, kind, config, options = CASES[name]
    scheduler = scheduler_of(kind, steps, **{"timestep_spacing": "trailing"} | BETAS[betas] | config)
    times = torch.cat([scheduler.timesteps + 1, torch.zeros(1)]).to(torch.float64) / 1000
    where = {"times": times} if "timestep_spacing" in config else {}  # theirs, or our own grid
    mine = ours(make(schedule, steps, time_grids.trailing_time_grid), x, **where)
    assert_equal(mine, theirs(scheduler, x, **options), atol)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CASES)
def test_shapes(name, shape, make_schedule, randn):
    if "thresholded" in name and len(shape) == 1:
        shape = (1, *shape)  # points have no channels there
    compare(name, make_schedule("linear"), "linear", 10, randn(2, *shape))


@pytest.mark.parametrize("name", CASES)
def test_schedules(name, make_schedule, randn):
    for betas in ("scaled_linear", "cosine"):
        compare(name, make_schedule(betas), betas, 20, randn(2, 3, 5))


@pytest.mark.parametrize(("name", "betas"), [
    ("ddpm large", "tanh"), ("ddpm learned", "tanh"), ("ddpm clipped", "zero_snr"), ("ddim half", "zero_snr"),
    ("ddim clipped", "zero_snr"),
])  # fmt: skip
def test_more_schedules(name, betas, make_schedule, randn):
    """The other schedulers there lack these betas, or put a little signal where none is left."""
    compare(name, make_schedule(betas), betas, 20, randn(2, 3, 5))


@pytest.mark.parametrize("name", CASES)
def test_numbers_of_steps(name, make_schedule, randn):
    for steps in (1, 2, 3, 20):
        if steps != 3 or not name.startswith("ddim"):  # whose steps there are of a whole number of nodes
            compare(name, make_schedule("linear"), "linear", steps, randn(2, 1, 2, 2))


@pytest.mark.most(1)
@pytest.mark.parametrize(("betas", "name"), [
    ("linear", "ddpm"), ("zero_snr", "ddim ancestral"), ("scaled_linear", "dpmpp_2m_sde"),
    *(pytest.param(*row, marks=pytest.mark.slow) for row in (
        ("cosine", "ddpm clipped"), ("scaled_linear", "ddpm learned"), ("cosine", "ddim"), ("linear", "euler"),
        ("linear", "dpmpp_2m"),
    )),
])  # fmt: skip
def test_all_nodes(name, betas, make_schedule, randn):
    # From no signal, with ancestral noise, theirs takes the root of a rounding error where ours is 0.
    atol = 1e-7 if (betas, name) == ("zero_snr", "ddim ancestral") else 1e-9
    compare(name, make_schedule(betas), betas, 1000, randn(2, 3), atol)


@pytest.mark.parametrize("name", SINGLE)
def test_single_steps(name, make_schedule, randn):
    """From node k to node k - 1, from samples that no trajectory led to."""
    make, kind, config, options = CASES[name]
    for betas, k in itertools.product(("linear", "cosine"), (1000, 999, 500, 2, 1)):
        scheduler = scheduler_of(kind, 1000, **{"timestep_spacing": "trailing"} | BETAS[betas] | config)
        x, times = randn(2, 3, 5), torch.tensor([k, k - 1], dtype=torch.float64) / 1000
        mine = ours(make(make_schedule(betas), 1000), x, times=times)
        assert_equal(mine, theirs(scheduler, x, begin=1000 - k, end=1001 - k, **options))


@pytest.mark.parametrize("grid", IN_NOISE)
@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m", "unipc 2", "unipc 3"])
def test_grids_in_noise(name, grid, make_schedule, randn):
    """From the highest level of the table to the lowest, between its nodes: the levels and the trajectories."""
    make, kind, config, options = CASES[name]
    for betas in ("linear", "scaled_linear", "cosine"):
        schedule, x = make_schedule(betas), randn(2, 3, 5)
        scheduler = scheduler_of(kind, 12, **{f"use_{grid}_sigmas": True}, **BETAS[betas], **config)
        alpha, sigma = schedule.alpha_sigma(torch.tensor([1, 1000], dtype=torch.float64) / 1000)
        low, high = (sigma / alpha).tolist()
        sampler = make(schedule, 12, partial(IN_NOISE[grid], sigma_min=low, sigma_max=high))
        alpha, sigma = schedule.alpha_sigma(sampler.times())
        assert_close(sigma / alpha, scheduler.sigmas, rtol=1e-9, atol=0)
        assert_equal(ours(sampler, x), theirs(scheduler, x, **options))


def test_align_your_steps(make_schedule, randn):
    """The list of levels in the configuration, and a walk along it from the highest level of the table."""
    levels, schedule, x = AysSchedules["StableDiffusionSigmas"], make_schedule("scaled_linear"), randn(2, 3, 5)
    assert OmegaConf.load(ROOT / "conf/time_grid/align_your_steps.yaml").sigmas == levels[:-1]
    alpha, sigma = schedule.alpha_sigma(torch.tensor(1.0, dtype=torch.float64))
    scheduler = scheduler_of(
        EulerDiscreteScheduler, {"sigmas": [float(sigma / alpha), *levels[1:]]}, **BETAS["scaled_linear"]
    )
    sampler = Euler(schedule, 10, partial(time_grids.align_your_steps_time_grid, sigmas=levels[:-1]))
    assert_equal(ours(sampler, x), theirs(scheduler, x))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("betas", ["linear", "cosine"])
def test_dpmpp_2s(betas, shape, make_schedule, randn):
    """There the evaluations half way are nodes too: with equal steps in log-SNR that is at r = 1/2."""
    schedule, x = make_schedule(betas), randn(2, *shape)
    for steps in (1, 2, 12):
        scheduler = scheduler_of(
            DPMSolverSinglestepScheduler, 2 * steps - 1, use_exponential_sigmas=True, lower_order_final=True,
            final_sigmas_type="zero", **BETAS[betas],
        )  # fmt: skip
        alpha, sigma = levels_of(scheduler)
        times = schedule.inverse_log_snr(2 * (alpha / sigma).log())[[*range(0, 2 * steps - 1, 2), -1]]
        assert_equal(ours(DPMpp2S(schedule, steps), x, times=times), theirs(scheduler, x))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("betas", ["linear", "scaled_linear"])
def test_dpm_2(betas, shape, make_schedule, randn):
    """As above, in predictions of the noise; theirs has no last step to clean data."""
    schedule, x = make_schedule(betas), randn(2, *shape)
    for steps in (2, 12):
        scheduler = scheduler_of(
            DPMSolverSinglestepScheduler, 2 * steps - 1, use_exponential_sigmas=True, lower_order_final=True,
            algorithm_type="dpmsolver", final_sigmas_type="sigma_min", **BETAS[betas],
        )  # fmt: skip
        alpha, sigma = levels_of(scheduler)
        times = schedule.inverse_log_snr(2 * (alpha / sigma).log())[: 2 * steps - 1 : 2]
        assert_equal(ours(DPM2(schedule, steps), x, times=times), theirs(scheduler, x)[:-1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("betas", ["linear", "scaled_linear"])
@pytest.mark.parametrize(("make", "begin"), [(PLMS, [0]), (PNDM, [0, 4, 8])], ids=["plms", "pndm"])
def test_pndm(make, begin, betas, shape, make_schedule, randn):
    """There a call is an evaluation, of which the first step has two, or the first three have four."""
    schedule, x = make_schedule(betas), randn(2, *shape)
    for steps in (4, 20):
        scheduler = scheduler_of(
            PNDMScheduler, steps, timestep_spacing="trailing", skip_prk_steps=make is PLMS, set_alpha_to_one=True,
            **BETAS[betas],
        )  # fmt: skip
        walked = theirs(scheduler, x)
        whole = [*begin, *range(len(walked) - (steps + 1 - len(begin)), len(walked))]
        mine = ours(make(schedule, steps, time_grids.trailing_time_grid), x)
        assert_equal(mine, walked[whole])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("betas", ["linear", "cosine"])
def test_heun(betas, shape, make_schedule, randn):
    r"""There it is Heun's method for :math:`x / \alpha` over :math:`\sigma / \alpha` on every schedule.

    Ours is one for x over :math:`(\alpha, \sigma)`, which is the same where alpha is 1.
    """
    x = randn(2, *shape)
    alpha, sigma = make_schedule(betas).alpha_sigma(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    for steps in (1, 2, 20):
        scheduler = scheduler_of(HeunDiscreteScheduler, steps, timestep_spacing="trailing", **BETAS[betas])
        assert_equal(
            ours(Heun(discrete_schedules.DiscreteVE(sigma / alpha), steps, time_grids.trailing_time_grid), x),
            theirs(scheduler, x),
        )


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(
    ("make", "kind"), [(Euler, FlowMatchEulerDiscreteScheduler), (Heun, FlowMatchHeunDiscreteScheduler)]
)
def test_flow(make, kind, shift, randn):
    for shape in SHAPES:
        for steps in (1, 5, 50):
            x, scheduler = randn(2, *shape), scheduler_of(kind, steps, shift=shift)
            ends = np.linspace(scheduler.sigma_max, scheduler.sigma_min, steps)
            assert_equal(
                ours(make(schedules.FlowSchedule(shift), steps), x, times=torch.tensor([*ends, 0.0])),
                theirs(scheduler, x),
            )


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m", "unipc 2", "unipc 3"])
def test_flow_in_log_snr(name, shift, randn):
    """A process that keeps neither the variance nor the signal; it begins below t = 1, as theirs has to."""
    make, kind, config, options = CASES[name]
    config = config | {"use_flow_sigmas": True, "flow_shift": shift, "prediction_type": "flow_prediction"}
    schedule, x, scheduler = schedules.FlowSchedule(shift), randn(2, 3, 5), scheduler_of(kind, 15, **config)
    alpha, sigma = levels_of(scheduler)
    times = schedule.inverse_log_snr(2 * (alpha / sigma).log())
    assert_equal(ours(make(schedule, 15), x, times=times), theirs(scheduler, x, **options))


@pytest.mark.parametrize("grid", IN_NOISE)
@pytest.mark.parametrize(("make", "kind", "config"), [
    (Euler, EDMEulerScheduler, {}),
    (DPMpp2M, EDMDPMSolverMultistepScheduler, LAST),
    (partial(DPMpp2M, eta=1.0), EDMDPMSolverMultistepScheduler, LAST | SDE),
    (partial(DPMpp3MSDE, eta=0.0), EDMDPMSolverMultistepScheduler, LAST | THIRD),
])  # fmt: skip
def test_edm(make, kind, config, grid, randn):
    """Its schedule, its levels, and its network, which is asked for what makes the prediction of the data ours."""
    for shape in SHAPES:
        for steps in (2, 18):
            x, scheduler = 80 * randn(2, *shape), scheduler_of(kind, steps, sigma_schedule=grid, **config)
            sampler = make(discrete_schedules.EDMSchedule(), steps, IN_NOISE[grid])
            assert_close(sampler.schedule.alpha_sigma(sampler.times())[1], scheduler.sigmas, rtol=1e-9, atol=0)
            assert_equal(ours(sampler, x), theirs(scheduler, x))


def velocity_at(y, alpha, sigma):
    r"""The derivative of y by the angle."""
    radius = (alpha**2 + sigma**2).sqrt()
    x_0 = data(radius * y, alpha, sigma)
    return (alpha * (radius * y - alpha * x_0) / sigma - sigma * x_0) / radius


def runge_kutta(schedule, y, v, angle, width):
    """The textbook step of fourth order, from the velocity v at y."""

    def velocity(y, angle):
        return velocity_at(y, *schedule.alpha_sigma(schedule.inverse_log_snr(-2 * angle.tan().log())))

    v_2 = velocity(y + width / 2 * v, angle + width / 2)
    v_3 = velocity(y + width / 2 * v_2, angle + width / 2)
    return y + width / 6 * (v + 2 * v_2 + 2 * v_3 + velocity(y + width * v_3, angle + width))


@pytest.mark.parametrize("name", ["linear", "zero_snr", "flow", "edm"])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_adams_bashforth(order, name, make_schedule, randn):
    r"""Their linear multistep method, with the angle in the place of sigma and the velocity in that of the noise.

    It walks :math:`y = x / \sqrt{\alpha^2 + \sigma^2}`. The first steps, Heun's or of Runge and Kutta, are written out.
    """
    schedule, steps = make_schedule(name), 12
    sampler = AdamsBashforth(schedule, steps, time_grids.trailing_time_grid, order=order)
    alphas, sigmas = schedule.alpha_sigma(sampler.times())
    radii, angles = (alphas**2 + sigmas**2).sqrt(), torch.atan2(sigmas, alphas)

    def velocity(y, i):
        return velocity_at(y, alphas[i], sigmas[i])

    for shape in SHAPES:
        scheduler, states = scheduler_of(LMSDiscreteScheduler, steps), [radii[0] * randn(2, *shape)]
        scheduler.sigmas, scheduler.is_scale_input_called = angles, True
        with float64(LMSDiscreteScheduler):
            for i in range(steps):
                y, width = states[-1] / radii[i], angles[i + 1] - angles[i]
                scheduler._step_index, v = i, velocity(y, i)
                y_s = scheduler.step(v, None, y, order=order).prev_sample
                if order == 4 and i < 3:
                    y_s = runge_kutta(schedule, y, v, angles[i], width)
                elif i < order - 1:
                    y_s = y + width / 2 * (v + velocity(y + width * v, i + 1))
                states.append(radii[i + 1] * y_s)
        assert_equal(ours(sampler, states[0]), torch.stack(states))

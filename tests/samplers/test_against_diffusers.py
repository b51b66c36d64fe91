"""The samplers against an independent implementation, with the noise shared and in float64.

Our time t = k / T is the timestep k - 1 there. The tables, which diffusers keeps in float32, are replaced.
"""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch.testing import assert_close

from src.samplers.ancestral import DDIM, DDPM

SHAPES = [(1, 7), (3, 5), (1, 4, 4), (3, 4, 6)]
NAMES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
CLIP = [None, 0.8]


def time(k):
    return torch.tensor(k / 1000, dtype=torch.float64)


def denoise(x_t, t):
    """Any prediction of the data; it exceeds the bound of the clipped runs."""
    return 1.1 * torch.tanh(0.8 * x_t + t - 0.3)


def float64_tables(name):
    if name == "linear":
        betas = np.linspace(1e-4, 0.02, 1000)
    else:
        f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
    return torch.from_numpy(betas)


def scheduler_of(kind, name, clip, **options):
    scheduler = kind(
        beta_schedule=NAMES[name], clip_sample=clip is not None, clip_sample_range=clip or 1.0,
        timestep_spacing="trailing", **options,
    )  # fmt: skip
    assert_close(scheduler.betas, float64_tables(name).float(), rtol=0, atol=1e-6)
    scheduler.betas = float64_tables(name)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
    return scheduler


def predicted_noise(scheduler, x_t, timestep):
    alpha_bar = scheduler.alphas_cumprod[timestep]
    x_0 = denoise(x_t, time(timestep + 1))
    return (x_t - alpha_bar.sqrt() * x_0) / (1 - alpha_bar).sqrt()


def noise_from(seed):
    g = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=g, dtype=x.dtype)


def walk(scheduler, x_t, seed, **options):
    """Every state of a trajectory there."""
    g = torch.Generator().manual_seed(seed)
    states = [x_t]
    for timestep in scheduler.timesteps.tolist():
        x_t = scheduler.step(
            predicted_noise(scheduler, x_t, timestep), timestep, x_t, generator=g, **options
        ).prev_sample
        states.append(x_t)
    return torch.stack(states)


def ours(sampler, x_t, seed):
    return torch.stack([state.x_t for state in sampler.trajectory(denoise, x_t, noise_from(seed))])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("clip", CLIP)
class TestDDPM:
    def theirs(self, name, clip, steps):
        scheduler = scheduler_of(DDPMScheduler, name, clip, variance_type="fixed_small")
        scheduler.set_timesteps(steps)
        return scheduler

    @pytest.mark.parametrize("data", SHAPES)
    @pytest.mark.parametrize("steps", [1, 20, 50])
    def test_trajectory(self, steps, data, name, clip, make_schedule, randn):
        x_1 = randn(2, *data)
        theirs = walk(self.theirs(name, clip, steps), x_1, seed=steps)
        assert_close(ours(DDPM(make_schedule(name), steps, clip), x_1, seed=steps), theirs, rtol=0, atol=1e-9)

    def test_all_steps(self, name, clip, make_schedule, randn):
        x_1 = randn(2, 3, 4)
        theirs = walk(self.theirs(name, clip, 1000), x_1, seed=0)
        assert_close(ours(DDPM(make_schedule(name), 1000, clip), x_1, seed=0), theirs, rtol=0, atol=1e-9)

    @pytest.mark.parametrize("k", [1, 2, 500, 999, 1000])
    def test_single_step(self, k, name, clip, make_schedule, randn):
        scheduler, sampler = self.theirs(name, clip, 1000), DDPM(make_schedule(name), 1000)
        x_t, t, s = randn(2, 3, 4), time(k), time(k - 1)
        theirs = scheduler.step(
            predicted_noise(scheduler, x_t, k - 1), k - 1, x_t, generator=torch.Generator().manual_seed(k)
        ).prev_sample

        def bounded(x, t):
            return denoise(x, t) if clip is None else denoise(x, t).clamp(-clip, clip)

        assert_close(sampler.step(bounded, x_t, t, s, noise_from(k)), theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("clip", CLIP)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
class TestDDIM:
    def theirs(self, name, clip, steps):
        scheduler = scheduler_of(DDIMScheduler, name, clip, set_alpha_to_one=True)
        scheduler.set_timesteps(steps)
        return scheduler

    @pytest.mark.parametrize("data", SHAPES)
    @pytest.mark.parametrize("steps", [1, 10, 50])
    def test_trajectory(self, steps, data, eta, name, clip, make_schedule, randn):
        x_1 = randn(2, *data)
        options = {"eta": eta, "use_clipped_model_output": True}
        theirs = walk(self.theirs(name, clip, steps), x_1, seed=steps, **options)
        assert_close(ours(DDIM(make_schedule(name), steps, eta, clip), x_1, seed=steps), theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("name", "eta"), [("linear", 0.0), ("cosine", 1.0)])
def test_ddim_over_all_steps(name, eta, make_schedule, randn):
    x_1, scheduler = randn(2, 3, 4), scheduler_of(DDIMScheduler, name, None, set_alpha_to_one=True)
    scheduler.set_timesteps(1000)
    theirs = walk(scheduler, x_1, seed=0, eta=eta)
    assert_close(ours(DDIM(make_schedule(name), 1000, eta), x_1, seed=0), theirs, rtol=0, atol=1e-9)

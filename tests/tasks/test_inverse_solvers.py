"""RePaint against its algorithm written out, and against the posterior of data whose elements depend on each other."""

import pytest
import torch
from torch.testing import assert_close

from src.diffusion.beta_schedules import CosineSchedule, LinearSchedule
from src.diffusion.operators import Downsample, Mask
from src.samplers.ancestral import DDIM, DDPM
from src.samplers.multistep import AdamsBashforth, DPMpp2M, UniPC
from src.samplers.ode import Heun, Restart
from src.samplers.pipeline import Pipeline
from src.samplers.time_grids import uniform_time_grid
from src.tasks.inverse_solvers import RePaint
from src.utils.errors import UserError
from tests.diffusion.reference import Oracle


def published_times(steps, jump, repeats):
    """`get_schedule_jump` of the paper's code; its t = -1 is the data, and steps - 1 the noise."""
    jumps = dict.fromkeys(range(0, steps - jump, jump), repeats - 1)
    t, times = steps, []
    while t >= 1:
        t -= 1
        times.append(t)
        if jumps.get(t, 0) > 0:
            jumps[t] -= 1
            for _ in range(jump):
                t += 1
                times.append(t)
    return [*times, -1]


@pytest.mark.parametrize(("steps", "jump", "repeats"), [(12, 3, 4), (250, 10, 10), (10, 1, 2), (7, 2, 3), (4, 9, 5)])
def test_the_jumps_are_the_published_ones(steps, jump, repeats):
    """Which go up step by step; noise added at once has the same law."""
    grid = uniform_time_grid(CosineSchedule(), steps)
    found = [round(float(t) * steps) - 1 for t in RePaint(jump, repeats).times(grid)]
    one_by_one = [found[0]]
    for place in found[1:]:
        sign = 1 if place > one_by_one[-1] else -1
        one_by_one += range(one_by_one[-1] + sign, place + sign, sign)
    assert one_by_one == published_times(steps, jump, repeats)


def test_once_each_is_the_grid():
    grid = uniform_time_grid(CosineSchedule(), 9)
    assert torch.equal(RePaint(3, 1).times(grid), grid)
    with pytest.raises(ValueError, match=r"inverse_solver\.jump_length must be >= 1, got 0"):
        RePaint(0, 5)


def make_model(predict, sampler, shape, seed=0):
    return Pipeline(Oracle(predict, sampler.schedule).double(), sampler, shape, seed=seed)


def solve(solver, model, rows, y, known):
    with torch.no_grad():
        return solver(model, rows, Mask(known), y, 0.0)


@pytest.mark.parametrize("shape", [(2, 5), (1, 3, 4)])
def test_it_is_algorithm_1(shape):
    """Jumps of one step, written out with the noise that the solver draws."""
    schedule, repeats, steps = LinearSchedule(), 3, 4
    known = (torch.arange(torch.Size(shape).numel()).view(1, *shape) % 2).float()
    y = known * torch.linspace(-1, 1, 2).view(2, *[1] * len(shape))
    model = make_model(lambda x_t, t, cond: torch.tanh(x_t), DDPM(schedule, steps), shape)
    found = solve(RePaint(1, repeats), model, range(2), y, known)

    noise, step = model.noise(range(2)), model.sampler.trajectory
    x = model.sampler.sample_prior(noise, torch.empty(2, *shape))
    grid = uniform_time_grid(schedule, steps)
    for i in range(steps):
        t, s = grid[i], grid[i + 1]
        for u in range(repeats if s > 0 else 1):
            *_, end = step(lambda x_t, t: torch.tanh(x_t), x, noise, times=torch.stack([t, s]))
            alpha, sigma = schedule.alpha_sigma(s)
            x = known * (alpha * y + sigma * noise(x)) + (1 - known) * end.x_t
            if u < repeats - 1 and s > 0:
                alpha_ts, sigma_ts = schedule.transition(s, t)
                x = alpha_ts * x + sigma_ts * noise(x)
    assert_close(found, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "sampler", [DDPM, DDIM, Heun, Restart, DPMpp2M, UniPC, AdamsBashforth], ids=lambda s: s.__name__
)
def test_what_is_known_stays_whatever_the_sampler(sampler):
    """Samplers that need more than one step begin anew at each; the result is a function of (seed, row)."""
    known, y = torch.tensor([[[1.0, 0, 1, 1, 0]]]), torch.linspace(-1, 1, 5).expand(4, 1, 5)
    model = make_model(lambda x_t, t, cond: torch.tanh(x_t), sampler(CosineSchedule(), 8), (1, 5))
    solver = RePaint(2, 3)
    found = solve(solver, model, range(4), y * known, known)
    assert_close(known * found, known * y) and found.isfinite().all()
    assert_close(solve(solver, model, range(2, 4), (y * known)[2:], known), found[2:])
    steps = []
    model.on_step = steps.append
    solve(solver, model, range(4), y * known, known)
    assert steps == [4] * 8, "as many as without jumps has"


@pytest.mark.usefixtures("unchecked")
def test_repeats_bring_the_parts_together():
    """Of two elements that are equal in the data one is known: the other follows, more so with every repeat."""
    schedule = CosineSchedule()

    def denoise(x_t, t, cond=None):
        """x_0 = (a, a), a of variance 1: the posterior mean of a."""
        alpha, sigma = schedule.alpha_sigma(t)
        mean = alpha * x_t.sum(-1, keepdim=True) / (2 * alpha**2 + sigma**2)
        return mean.expand_as(x_t)

    known, n = torch.tensor([[[1.0, 0]]]), 300
    y = known * torch.linspace(-2, 2, n).view(n, 1, 1)

    def error(repeats):
        found = solve(RePaint(2, repeats), make_model(denoise, DDPM(schedule, 30), (1, 2)), range(n), y, known)
        return (found[..., 0] - found[..., 1]).square().mean().sqrt()

    once, thrice, often = error(1), error(3), error(10)
    assert often < thrice < once and often < 0.6 * once


def test_it_is_for_masks_without_noise():
    model = make_model(lambda x_t, t, cond: x_t, DDPM(CosineSchedule(), 3), (1, 4))
    for operator, noise in ((Downsample(2), 0.0), (Mask(torch.ones(1, 1, 4)), 0.1)):
        with pytest.raises(UserError, match="inverse_solver=repaint is for task=inpaint"):
            RePaint()(model, range(1), operator, torch.zeros(1, 1, 4), noise)

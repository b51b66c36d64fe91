"""Editing and interpolating, on data whose exact answers are known."""

import pytest
import torch

from src.samplers.ancestral import DDIM, DDPM
from src.samplers.pipeline import Pipeline
from src.tasks.base import Inputs
from src.tasks.edit import Edit, Interpolate, slerp
from src.utils.errors import UserError
from tests.diffusion.reference import Oracle


def make_model(truth, schedule, shape, sampler=DDIM, steps=100, **more):
    return Pipeline(Oracle(truth.denoiser(schedule), schedule), sampler(schedule, steps), shape, **more)


@pytest.mark.parametrize("shape", [(1, 6), (2, 2, 3)])
def test_an_edit_follows_the_law_of_noising_and_coming_back(gaussian, make_schedule, shape):
    """For Gaussian data: E[x_0 | x_t], with x_t about the input; and the input is forgotten as the level rises."""
    truth, schedule = gaussian(shape), make_schedule("cosine")
    given = (truth.mean + 2 * truth.std).expand(1500, *shape)
    pulls = []
    for level in (0.1, 0.5, 1.0):
        result = Edit(level)(make_model(truth, schedule, shape, DDPM, 120), Inputs(given))
        alpha, sigma = schedule.alpha_sigma(torch.tensor(level, dtype=torch.float64))
        gain = alpha**2 * truth.std**2 / (alpha**2 * truth.std**2 + sigma**2)
        expected = truth.mean + gain * 2 * truth.std
        # The noise that was put in comes back through the gain, beside what the posterior leaves open.
        std = (truth.std**2 * (1 - gain) * (1 + gain)).sqrt()
        assert ((result.x.mean(0) - expected) / truth.std).abs().max() < 0.11
        assert ((result.x.std(0) - std) / truth.std).abs().max() < 0.11
        pulls.append(float(((result.x.mean(0) - truth.mean) / truth.std).mean()))
    assert pulls[0] > 1.5 and pulls[0] > pulls[1] > pulls[2] > -0.1 and pulls[2] < 0.1


def test_an_edit_is_a_function_of_the_seed(gaussian, make_schedule):
    shape = (1, 6)
    truth, schedule = gaussian(shape), make_schedule("cosine")
    given = truth.mean.expand(5, *shape)
    one, same = (Edit(0.5)(make_model(truth, schedule, shape, batch_size=b), Inputs(given)).x for b in (5, 2))
    torch.testing.assert_close(one, same)
    other = Edit(0.5)(make_model(truth, schedule, shape, seed=1), Inputs(given)).x
    assert (one - other).abs().max() > 0.1
    assert (one[0] - one[1]).abs().max() > 0.1


@pytest.mark.parametrize("process", ["cosine", "vp_sde", "ve_sde", "flow"])
def test_the_ends_come_back(gaussian, make_schedule, process):
    shape = (1, 8)
    truth, schedule = gaussian(shape), make_schedule(process)
    g = torch.Generator().manual_seed(0)
    ends = truth.mean + truth.std * torch.randn(4, *shape, generator=g, dtype=torch.float64)
    result = Interpolate(between=3, steps=100)(make_model(truth, schedule, shape), Inputs(ends))
    rows = result.x.view(2, 5, *shape)
    torch.testing.assert_close(rows[:, [0, -1]], ends.view(2, 2, *shape), atol=0.03, rtol=0)
    assert result.columns == 5
    # Between, samples stay as likely as data: an arc keeps the norm that a straight line would lose.
    norms = ((rows - truth.mean) / truth.std).flatten(2).norm(dim=2)
    assert (norms[:, 2] > 0.75 * norms[:, [0, -1]].amin(1)).all()


def test_the_middle_of_an_arc(randn):
    a, b = randn(2, 3), randn(2, 3)
    b = b - (a * b).sum() / a.square().sum() * a
    b = b * a.norm() / b.norm()  # at a right angle, and as long
    arc = slerp(a, b, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    torch.testing.assert_close(arc, torch.stack([a, (a + b) / 2**0.5, b]))
    torch.testing.assert_close(slerp(a, 2 * a, torch.tensor([0.5], dtype=torch.float64))[0], 1.5 * a)


def test_mistakes(gaussian, make_schedule):
    shape = (1, 8)
    model = make_model(gaussian(shape), make_schedule("cosine"), shape)
    with pytest.raises(UserError, match="takes pairs, but input holds 3"):
        Interpolate()(model, Inputs(torch.zeros(3, *shape)))
    with pytest.raises(UserError, match="input=FILE is needed"):
        Edit()(model, Inputs())
    with pytest.raises(ValueError, match=r"task\.level=2"):
        Edit(2.0)
    with pytest.raises(ValueError, match="at least 1"):
        Interpolate(between=0)

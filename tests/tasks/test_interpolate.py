"""Interpolation of data whose exact answers are known."""

import pytest
import torch

from src.samplers.ancestral import DDIM
from src.samplers.pipeline import Pipeline
from src.tasks.base import TaskInput
from src.tasks.interpolate import Interpolate, slerp
from src.utils.errors import UserError
from tests.diffusion.reference import Oracle


def make_model(truth, schedule, shape, sampler=DDIM, steps=100, **more):
    return Pipeline(Oracle(truth.denoiser(schedule), schedule), sampler(schedule, steps), shape, **more)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("process", ["cosine", "vp_sde", "ve_sde", "flow"])
def test_the_ends_come_back(gaussian, make_schedule, process):
    shape = (1, 8)
    truth, schedule = gaussian(shape), make_schedule(process)
    g = torch.Generator().manual_seed(0)
    ends = truth.mean + truth.std * torch.randn(4, *shape, generator=g, dtype=torch.float64)
    result = Interpolate(n_between=3, steps=100)(make_model(truth, schedule, shape), TaskInput(ends))
    rows = result.x.view(2, 5, *shape)
    torch.testing.assert_close(rows[:, [0, -1]], ends.view(2, 2, *shape), atol=0.03, rtol=0)
    assert result.grid_columns == 5
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
    with pytest.raises(UserError, match="must be pairs of samples, got 3"):
        Interpolate()(model, TaskInput(torch.zeros(3, *shape)))
    with pytest.raises(ValueError, match=r"task\.n_between must be >= 1, got 0"):
        Interpolate(n_between=0)

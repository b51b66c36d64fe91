"""SDEdit on data whose exact answers are known."""

import pytest
import torch

from src.samplers.ancestral import DDIM, DDPM
from src.samplers.pipeline import Pipeline
from src.tasks.base import TaskInput
from src.tasks.sdedit import SDEdit
from src.utils.errors import UserError
from tests.diffusion.reference import Oracle


def make_model(truth, schedule, shape, sampler=DDIM, steps=100, **more):
    return Pipeline(Oracle(truth.denoiser(schedule), schedule), sampler(schedule, steps), shape, **more)


@pytest.mark.usefixtures("unchecked")
def test_an_edit_follows_the_law_of_noising_and_coming_back(gaussian, make_schedule):
    """For Gaussian data: E[x_0 | x_t], with x_t about the input; and the input is forgotten as t_start rises."""
    shape = (2, 2, 3)
    truth, schedule = gaussian(shape), make_schedule("cosine")
    given = (truth.mean + 2 * truth.std).expand(1500, *shape)
    pulls = []
    for t_start in (0.1, 0.5, 1.0):
        result = SDEdit(t_start)(make_model(truth, schedule, shape, DDPM, 120), TaskInput(given))
        alpha, sigma = schedule.alpha_sigma(torch.tensor(t_start, dtype=torch.float64))
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
    one, same = (SDEdit(0.5)(make_model(truth, schedule, shape, batch_size=b), TaskInput(given)).x for b in (5, 2))
    torch.testing.assert_close(one, same)
    other = SDEdit(0.5)(make_model(truth, schedule, shape, seed=1), TaskInput(given)).x
    assert (one - other).abs().max() > 0.1
    assert (one[0] - one[1]).abs().max() > 0.1


def test_mistakes(gaussian, make_schedule):
    shape = (1, 8)
    model = make_model(gaussian(shape), make_schedule("cosine"), shape)
    with pytest.raises(UserError, match="input=FILE is needed"):
        SDEdit()(model, TaskInput())
    with pytest.raises(ValueError, match=r"task\.t_start must be in \(0, 1\], got 2"):
        SDEdit(2.0)

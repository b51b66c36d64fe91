"""What every parameterization and weighting of conf/ promises, whatever its settings, the schedule and the time."""

from functools import partial

import pytest
import torch
from hydra.utils import get_object
from hypothesis import assume, given
from hypothesis import strategies as st

from src.diffusion.denoiser import Denoiser
from src.diffusion.losses import MSE
from src.diffusion.schedules import expand_like
from tests.diffusion import expected
from tests.diffusion.test_schedules_properties import EPS, NAMES, rounding, schedules
from tests.helpers.properties import examples, files_of, near, parts

any_schedule = st.sampled_from(NAMES).flatmap(schedules)
times = st.lists(st.floats(1e-3, 0.999), min_size=1, max_size=6).map(lambda t: torch.tensor(t, dtype=torch.float64))
PARTS = list(files_of("parameterization"))


def true_output(name, part, schedule, t, x_0, eps):
    """What the network of a parameterization should put out, written apart."""
    if name == "edm":
        return expected.edm_output(part.sigma_data)(schedule, t, x_0, eps)
    if name == "posterior_mean":
        x_t = schedule.add_noise(x_0, t, eps)
        return expected.posterior_mean(schedule, (t - 1 / part.steps).clamp(min=0), t, x_0, x_t)
    return expected.TRUTHS[name][1](schedule, t, x_0, eps)


class Fixed(torch.nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x, c_noise, cond):
        self.given = x
        return self.output


def drawn(t, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(2, len(t), 1, 3, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("name", PARTS)
@given(data=st.data(), schedule=any_schedule, t=times, seed=st.integers(0, 99))
@examples(0.75)
def test_round_trips(name, data, schedule, t, seed):
    """From the data to the output of the network and back, in every parameterization; with inputs of unit variance."""
    part = data.draw(parts("parameterization", name))
    try:
        part.check(schedule)
    except ValueError:  # singular where there is no signal
        assume(False)
    if name == "posterior_mean":
        t = t.clamp(min=1.5 / part.steps)
        assume((t < 1).all())
    (x_0, eps), (alpha, sigma) = drawn(t, seed), schedule.alpha_sigma(t)
    x_t = schedule.add_noise(x_0, t, eps)
    c_in, c_skip, c_out, _ = part.preconditioning(schedule, t)
    std = getattr(part, "sigma_data", 1.0)
    assert ((c_in**2 * (alpha**2 * std**2 + sigma**2) - 1).abs() <= 8 * EPS).all()

    output = true_output(name, part, schedule, t, x_0, eps)
    net = Fixed(output)
    found = Denoiser(net, schedule, part)(x_t, t).x_0
    assert torch.equal(net.given, expand_like(c_in, x_t) * x_t)
    # The sum of two terms, each rounded; those of a step are differences of close numbers.
    error = 64 * EPS + torch.zeros_like(t)
    if name == "posterior_mean":
        s = t - 1 / part.steps
        gap = schedule.log_snr(s) - schedule.log_snr(t)
        error = error + 16 * (rounding(schedule, s) + rounding(schedule, t)) / gap.clamp(max=1)
    if name == "edm":  # written for x_t / alpha
        error = error * (1 + sigma / alpha + alpha / sigma)
    terms = (expand_like(c_skip, x_t) * x_t).abs() + (expand_like(c_out, x_t) * output).abs() + x_0.abs()
    assert ((found - x_0).abs() <= expand_like(error, x_0) * terms.amax((1, 2), keepdim=True)).all()


@pytest.mark.parametrize("name", files_of("weighting"))
@given(data=st.data(), schedule=any_schedule, t=times, seed=st.integers(0, 99))
@examples(0.5)
def test_weights_in_every_space(name, data, schedule, t, seed):
    """A loss of x_0 under a weighting is the loss of the noise with the weight over SNR, and that of v."""
    file = dict(files_of("weighting")[name])
    function = get_object(file.pop("_target_"))
    settings = {key: data.draw(near(value, True)) for key, value in file.items() if not key.startswith("_")}
    weighting = partial(function, **settings)
    (x_0, eps), guess = drawn(t, seed), drawn(t, seed + 100)[0]
    alpha, sigma = (expand_like(v, x_0) for v in schedule.alpha_sigma(t))
    weight, x_t = expand_like(weighting(schedule, t), x_0), alpha * x_0 + sigma * eps
    assert weight.isfinite().all() and (weight > 0).all()
    eps_guess = (x_t - alpha * guess) / sigma
    power = (alpha**2 + sigma**2).sqrt()
    of_eps = weight * (sigma / alpha) ** 2 * (eps_guess - eps) ** 2
    v_guess, v = ((alpha * e - sigma * x) / power for e, x in ((eps_guess, guess), (eps, x_0)))
    of_v = weight * sigma**2 / (alpha**2 + sigma**2) * (v_guess - v) ** 2
    schedule_loss = MSE(weighting)(Denoiser(Fixed(guess), schedule, expected.p.X0()), x_0, t, eps)
    # The error of the noise and of the data is a small part of x_t where it is nearly all data or nearly all noise.
    error = 1e-9 + float(2000 * EPS * (sigma / alpha + alpha / sigma).max())
    for loss in of_eps, of_v:
        assert ((loss.flatten(1).mean(1) - schedule_loss).abs() <= error * schedule_loss + 1e-12).all()

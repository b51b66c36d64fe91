"""What every schedule of conf/ promises, whatever its settings and the times."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from src.diffusion.schedules import Schedule, posterior_weights
from tests.fixtures import Trigonometric
from tests.helpers.properties import examples, files_of, parts

EPS = torch.finfo(torch.float64).eps
# Tables take times within 1e-9 of a node for the node.
SNAP = 2e-9
NAMES = [*files_of("schedule"), "trigonometric"]
# Below 1e-12 alpha or sigma may be too small for a float64.
time = st.floats(1e-12, 1) | st.sampled_from([0.0, 1.0, 1 - 1e-12])
times = st.lists(time, min_size=2, max_size=12, unique=True).map(sorted)
each = pytest.mark.parametrize("name", NAMES)


@st.composite
def schedules(draw: st.DrawFn, name: str) -> Schedule:
    """That of a file, with weights as after some training if it has any; or that of a user."""
    if name == "trigonometric":
        return Trigonometric()
    schedule, g = draw(parts("schedule", name)), torch.Generator().manual_seed(draw(st.integers(0, 99)))
    for weight in schedule.requires_grad_(False).parameters():
        weight.add_(torch.randn(weight.shape, generator=g))
    return schedule


def apart(t: list[float], gap: float) -> torch.Tensor:
    """Those at least a gap behind the one before."""
    kept = t[:1]
    for value in t[1:]:
        if value - kept[-1] > gap:
            kept.append(value)
    return torch.tensor(kept, dtype=torch.float64)


def rounding(schedule: Schedule, t: torch.Tensor) -> torch.Tensor:
    """The error of a log-SNR: a few roundings of the largest number on its way, and of log alpha beside it."""
    alpha, sigma = schedule.alpha_sigma(t)
    size = 1 + schedule.log_snr(t).abs() + alpha.log().abs() + sigma.log().abs()
    return 32 * EPS * size.nan_to_num(posinf=0.0)


def between_nodes(schedule: Schedule, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The times moved away from the nodes and both ends, where the rates jump, and their distance from them."""
    steps = getattr(schedule, "steps", 2)  # a Laplace law has a kink at 1 / 2
    place = t * steps
    cell = place.floor().clamp(max=steps - 1)
    share = 0.1 + 0.8 * (place - cell)
    return (cell + share) / steps, torch.minimum(share, 1 - share) / steps


@each
@given(data=st.data(), t=times)
@examples(0.2)
def test_log_snr_falls_strictly_and_is_that_of_alpha_and_sigma(name, data, t):
    schedule, t = data.draw(schedules(name)), apart(t, 1e-7)
    log_snr, (alpha, sigma) = schedule.log_snr(t), schedule.alpha_sigma(t)
    assert (log_snr.diff() < 0).all()
    assert (alpha >= 0).all() and (sigma >= 0).all() and alpha.dtype == sigma.dtype == torch.float64
    assert (alpha <= 1).all() and (alpha.diff() <= 4 * EPS).all() and (sigma.diff() >= -4 * EPS).all()
    of_both = 2 * (alpha.log() - sigma.log())
    assert ((of_both == log_snr) | ((of_both - log_snr).abs() <= rounding(schedule, t))).all()


@each
@given(data=st.data(), t=times)
@examples(0.2)
def test_inverse_log_snr(name, data, t):
    """An error of the log-SNR is one of t by its rate, of which the least near t counts."""
    schedule, t = data.draw(schedules(name)), torch.tensor(t, dtype=torch.float64)
    log_snr = schedule.log_snr(t)
    h = 1e-5
    near = torch.stack([(t + k * h).clamp(0, 1) for k in (-2, -1, 0, 1, 2)])
    rate = (schedule.log_snr(near).diff(dim=0).abs() / near.diff(dim=0)).nan_to_num(nan=math.inf).amin(0)
    tolerance = SNAP + 4 * (rounding(schedule, t) + 1e-15) / rate
    for inverse in schedule.inverse_log_snr, lambda v: Schedule.inverse_log_snr(schedule, v):
        found = inverse(log_snr)
        if name == "learned":  # t = 0 has noise there, and what is cleaner is at t = 0
            assert inverse(torch.tensor(math.inf).double()) <= SNAP
        assert ((found - t).abs() <= tolerance).all(), (found - t, tolerance)
        assert ((found >= 0) & (found <= 1)).all()


@each
@given(data=st.data(), t=times.filter(lambda t: len(t) > 2))
@examples(0.2)
def test_transitions_compose(name, data, t):
    """Noise added to level s and then to t has the law of one jump, and that of the marginals."""
    schedule, t = data.draw(schedules(name)), apart(t, 1e-6)
    s, t, u = t[:-2], t[1:-1], t[2:]
    (alpha_ts, sigma_ts), (alpha_ut, sigma_ut) = schedule.transition(s, t), schedule.transition(t, u)
    alpha_us, sigma_us = schedule.transition(s, u)
    # 1 - exp(difference of log-SNRs), of which the error is that of the log-SNRs, relative to the variance at t or u.
    (alpha_s, sigma_s), (_, sigma_t), (_, sigma_u) = (schedule.alpha_sigma(v) for v in (s, t, u))
    error = 4 * (rounding(schedule, s) + rounding(schedule, t) + rounding(schedule, u)) + 1e-14
    assert ((alpha_ut * alpha_ts - alpha_us).abs() <= error * alpha_us).all()
    two = alpha_ut**2 * sigma_ts**2 + sigma_ut**2
    assert ((two - sigma_us**2).abs() <= error * (sigma_u**2 + alpha_ut**2 * sigma_t**2)).all()
    marginal = alpha_ts**2 * sigma_s**2 + sigma_ts**2
    assert ((marginal - sigma_t**2).abs() <= error * sigma_t**2).all()
    assert ((alpha_ts * alpha_s - schedule.alpha_sigma(t)[0]).abs() <= error * alpha_s).all()


@each
@given(data=st.data(), t=times)
@examples(0.2)
def test_posterior_is_that_of_bayes_rule(name, data, t):
    """The mean of two Gaussian factors is weighted by their precisions, which add up."""
    schedule, t = data.draw(schedules(name)), 1e-4 + 0.999 * apart(t, 1e-3)
    s, t = t[:-1], t[1:]
    (alpha_s, sigma_s), (_, sigma_t) = schedule.alpha_sigma(s), schedule.alpha_sigma(t)
    alpha_ts, sigma_ts = schedule.transition(s, t)
    of_x_t, of_x_0 = posterior_weights(alpha_s, sigma_s, sigma_t, alpha_ts, sigma_ts)
    precision = 1 / sigma_s**2 + alpha_ts**2 / sigma_ts**2
    error = 8 * (rounding(schedule, s) + rounding(schedule, t)) / (schedule.log_snr(s) - schedule.log_snr(t)) + 1e-12
    assert ((of_x_0 - alpha_s / sigma_s**2 / precision).abs() <= error * (1 + of_x_0)).all()
    assert ((of_x_t - alpha_ts / sigma_ts**2 / precision).abs() <= error * (1 + of_x_t)).all()
    assert ((sigma_s * sigma_ts / sigma_t - precision.rsqrt()).abs() <= error * sigma_s).all()


@each
@given(data=st.data(), t=times)
@examples(0.2)
def test_sde_has_these_marginals(name, data, t):
    r"""d alpha / dt = f alpha and d sigma^2 / dt = 2 f sigma^2 + g^2, the left by central differences."""
    schedule = data.draw(schedules(name))
    t, distance = between_nodes(schedule, torch.tensor(t, dtype=torch.float64))
    h = 1e-4 * distance
    (alpha_0, sigma_0), (alpha, sigma), (alpha_1, sigma_1) = (schedule.alpha_sigma(v) for v in (t - h, t, t + h))
    drift, diffusion = schedule.drift_diffusion(t)
    # Of the differences: 1e-8 of their terms, and what the rounding of the values is in units of h.
    of_alpha, of_variance = (4 * EPS * v / h for v in (1 + alpha.log().abs(), (1 + sigma.log().abs()) * sigma**2 + EPS))
    assert (((alpha_1 - alpha_0) / (2 * h) - drift * alpha).abs() <= 1e-5 * (drift * alpha).abs() + of_alpha).all()
    left, right = (sigma_1**2 - sigma_0**2) / (2 * h), 2 * drift * sigma**2 + diffusion
    scale = (2 * drift * sigma**2).abs() + diffusion
    assert ((left - right).abs() <= 1e-5 * scale + of_variance + 2 * of_alpha * sigma**2 / alpha).all()
    rate = (schedule.log_snr(t + h) - schedule.log_snr(t - h)) / (2 * h)
    assert ((schedule.log_snr_rate(t) - rate).abs() <= 1e-5 * rate.abs() + rounding(schedule, t) / h).all()
    assert (diffusion > 0).all()
    assert_close(schedule.log_snr_rate(t[0]), schedule.log_snr_rate(t)[0], rtol=1e-12, atol=0)

"""The loss with a learned weight for each noise level: its formula, what it learns, and that it is trained."""

import math

import pytest
import torch
from torch.testing import assert_close

from src.diffusion.beta_schedules import CosineSchedule
from src.diffusion.losses import MSE
from src.diffusion.uncertainty import Uncertainty
from src.diffusion.weightings import edm_weighting, v_weighting
from tests.diffusion.reference import SHAPES, Oracle
from tests.helpers.tiny import fit, make_module

T = torch.tensor([1e-3, 0.1234, 0.5, 0.97], dtype=torch.float64)


def denoise(x_t, t=None, cond=None):
    return torch.tanh(0.7 * x_t + 0.1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("process", ["edm", "cosine"])
def test_formula(process, shape, make_schedule, randn):
    """As in the code of EDM2, where the data have a standard deviation of 0.5 and sigma is the noise level."""
    schedule, x_0, noise = make_schedule(process), randn(4, *shape), randn(4, *shape)
    loss = Uncertainty(edm_weighting, width=16)
    torch.nn.init.normal_(loss.weight)
    found = loss(Oracle(denoise, schedule), x_0, T, noise)
    for i, t in enumerate(T):
        alpha, sigma = schedule.alpha_sigma(t)
        level = sigma / alpha
        features = (level.log() / 4 * loss.frequencies.double() + loss.phases.double()).cos() * math.sqrt(2)
        logvar = features @ loss.weight.double()
        weight = (level**2 + 0.5**2) / (level * 0.5) ** 2
        expected = (weight / logvar.exp() * (denoise(alpha * x_0[i] + sigma * noise[i]) - x_0[i]) ** 2 + logvar).mean()
        assert_close(found[i], expected, rtol=2e-4, atol=2e-4)


def test_it_begins_as_the_squared_error(make_schedule, randn):
    x_0, noise, oracle = randn(4, 3, 5), randn(4, 3, 5), Oracle(denoise, make_schedule("cosine"))
    found = Uncertainty(v_weighting)(oracle, x_0, T, noise)
    assert_close(found, MSE(v_weighting)(oracle, x_0, T, noise), rtol=0, atol=0)


def test_it_learns_the_error_of_each_noise_level(randn):
    """The least loss is where e^u is the mean error; the gradients of the prediction are then of one size."""
    schedule, loss = CosineSchedule(), Uncertainty(v_weighting, width=64)
    t = torch.rand(4096, dtype=torch.float64)
    errors = (1 + 10 * t.float()) * randn(4096).float() ** 2  # with means between 1 and 11
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.03)
    for _ in range(150):
        u = loss.log_error(schedule.log_snr(t))
        optimizer.zero_grad()
        (errors / u.exp() + u).mean().backward()
        optimizer.step()
    at = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
    assert_close(loss.log_error(schedule.log_snr(at)), (1 + 10 * at).log().float(), rtol=0, atol=0.2)


@pytest.mark.filterwarnings("ignore")
def test_it_is_trained_and_kept(tmp_path):
    module = make_module()
    module.loss = Uncertainty(v_weighting, width=8)
    fit(tmp_path, module)
    assert module.loss.weight.abs().min() > 1e-3
    assert {"loss.weight", "loss.frequencies", "loss.phases"} <= set(module.state_dict())


def test_noise_levels_at_both_ends(make_schedule):
    """Where the log-SNR is infinite u is finite."""
    schedule = make_schedule("flow")
    loss = Uncertainty(v_weighting)
    torch.nn.init.ones_(loss.weight)
    assert loss.log_error(schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64))).isfinite().all()


def test_phases_are_of_one_turn():
    phases = Uncertainty(v_weighting, width=2000).phases
    assert 0 <= phases.min() < 0.1 and 2 * math.pi - 0.1 < phases.max() < 2 * math.pi


@pytest.mark.parametrize("end", [-80, 80])
def test_beyond_the_range_of_the_features_it_is_constant(end):
    """Noise levels of a log-SNR of 80 are no noise, or no data, in float32."""
    loss = Uncertainty(v_weighting, width=16)
    torch.nn.init.normal_(loss.weight)
    at, beyond, before = loss.log_error(torch.tensor([end, 2.0 * end, 0.95 * end], dtype=torch.float64))
    assert at == beyond and (at - before).abs() > 1e-3

"""The bench of nets finds the sine waves that are there, and says how far a signal is from one."""

import math

import pytest
import torch
from omegaconf import OmegaConf
from torch.testing import assert_close

from tests.bench_nets import Job, composed, fit_sines, sine_row

u = torch.linspace(0, 1, 100, dtype=torch.float64)


def waves(randn, n=200):
    g = torch.Generator().manual_seed(0)
    f, a, phi = torch.rand(3, n, generator=g, dtype=torch.float64)
    f, a, phi = 1 + 2 * f, 0.5 + 0.5 * a, 2 * math.pi * phi
    return f, a, a[:, None] * torch.sin(2 * math.pi * f[:, None] * u + phi[:, None])


def test_recovers_frequency_and_amplitude(randn):
    f, a, x = waves(randn)
    fit = fit_sines(x)
    assert_close(fit.frequency, f, rtol=0, atol=1e-3)
    assert_close(fit.amplitude, a, rtol=0, atol=2e-3)
    assert fit.error.max() < 3e-3 and fit.outside.max() < 1e-5


@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_noise_is_what_is_left(randn, noise):
    """Of the three numbers that are fitted it takes its share: 3 of 100."""
    _, a, x = waves(randn)
    noisy = x + noise * a[:, None] * randn(*x.shape)
    assert fit_sines(noisy).error.square().mean().sqrt() == pytest.approx(noise * math.sqrt(0.97), rel=0.02)


def test_another_wave_is_outside(randn):
    x = torch.sin(2 * math.pi * 2 * u) + 0.5 * torch.sin(2 * math.pi * 9 * u)
    assert fit_sines(x[None]).outside.item() == pytest.approx(0.25 / 1.25, abs=0.01)
    assert sine_row((2 * x)[None, None])[-1] == "0%"  # of twice the largest amplitude


@pytest.mark.parametrize("net", ["dit", "rnn", "mlp", "unet"])
def test_nets_have_their_own_settings(net):
    """Not those that the experiment has for its U-Net."""
    cfg, own = composed(Job(net, "fourier", []).overrides("sine_ddpm")), OmegaConf.load(f"conf/net/{net}.yaml")
    numbers = [key for key in own if not OmegaConf.is_interpolation(own, key)]
    assert len(numbers) > 5 and {key: cfg.net[key] for key in numbers} == {key: own[key] for key in numbers}
    assert cfg.net.encoding._target_.endswith("FourierEmbedding")

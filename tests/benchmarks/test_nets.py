"""The bench of nets says how far samples are from sine waves, and gives every net its own settings."""

import math

import pytest
import torch
from omegaconf import OmegaConf

from tests.benchmarks.nets import Job, composed, sine_row

u = torch.linspace(0, 1, 100, dtype=torch.float64)


def test_the_row_of_sine_waves(randn):
    """Errors are shares of the amplitude, and three numbers that are fitted take their part of the noise."""
    wave = torch.sin(2 * math.pi * 2 * u)
    noisy = 0.8 * (wave + 0.1 * randn(500, 1, 100))
    median, most, outside, within = (float(cell.rstrip("%")) / 100 for cell in sine_row(noisy))
    assert median == pytest.approx(0.1 * math.sqrt(0.97), rel=0.02) and median < most < 0.12
    assert outside == pytest.approx(0.01 / 0.51, rel=0.05) and within == 1
    assert sine_row(2 * wave[None, None])[-1] == "0%"  # of twice the largest amplitude


@pytest.mark.most(1)
@pytest.mark.parametrize("net", ["dit", "rnn", "mlp", "unet"])
def test_nets_have_their_own_settings(net):
    """Not those that the experiment has for its U-Net."""
    cfg, own = composed(Job(net, "fourier", []).overrides("sine_ddpm")), OmegaConf.load(f"conf/net/{net}.yaml")
    numbers = [key for key in own if not OmegaConf.is_interpolation(own, key)]
    assert len(numbers) > 5 and {key: cfg.net[key] for key in numbers} == {key: own[key] for key in numbers}
    assert cfg.net.time_embedding._target_.endswith("FourierEmbedding")

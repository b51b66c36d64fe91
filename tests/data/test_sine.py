"""The sine waves against their distributions."""

from math import pi

import numpy as np
import pytest
import torch

from src.data.sine import Sine
from src.utils.errors import UserError


def signals(**settings):
    data = Sine(**settings)
    data.setup()
    return torch.cat([data.train_set.x, data.val_set.x])


def test_the_thousand_identical_waves():
    x = signals(frequency=[1, 1], amplitude=[1, 1], phase=[0, 0])
    wave = np.sin(np.linspace(0, 2 * np.pi, 100)).astype(np.float32)
    assert x.shape == (1000, 1, 100) and x.dtype == torch.float32
    np.testing.assert_allclose(x.numpy(), np.broadcast_to(wave, x.shape), rtol=0, atol=1e-7)
    assert (x == x[0]).all()


def test_sizes_and_source():
    data = Sine()
    data.setup()
    assert (len(data.train_set), len(data.val_set)) == (800, 200)
    assert data.source == "800 train / 200 validation sine waves of length 100, drawn" and data.warning is None
    assert data.train_set.x.abs().max() <= 1
    batch = next(iter(data.train_dataloader()))
    assert batch["x"].shape == (64, 1, 100) and "label" not in batch


def test_the_waves_to_evaluate_on_are_new_and_of_the_same_law():
    data = Sine(n=200, n_test=50)
    data.setup()
    x = data.test_set[0, torch.arange(50)]["x"]
    assert x.shape == (50, 1, 100) and len(data.test_set) == 50
    assert torch.cdist(x.flatten(1), torch.cat([data.train_set.x, data.val_set.x]).flatten(1)).min() > 0.05
    again = Sine(n=7, n_test=50)
    assert torch.equal(again.test_set[0, torch.arange(50)]["x"], x), "whatever the number to train on"
    with pytest.raises(UserError, match=r"data\.n_test must be >= 1, got 0"):
        Sine(n_test=0)


def assert_uniform(values, low, high):
    """Kolmogorov-Smirnov test at a level of about 1e-4."""
    grid = (np.sort(values) - low) / (high - low)
    distance = np.abs(grid - (np.arange(len(grid)) + 0.5) / len(grid)).max()
    assert distance < 2.2 / len(grid) ** 0.5


def test_law_of_the_amplitude():
    x = signals(n=4000, size=[5], frequency=[1, 1], amplitude=[0.2, 0.9], phase=[0, 0])
    assert_uniform(x[:, 0, 1].numpy(), 0.2, 0.9)  # a quarter of the wave: its peak


def test_law_of_the_phase():
    x = signals(n=4000, frequency=[1, 1], amplitude=[1, 1], phase=[-1.5, 1.5])
    assert_uniform(np.arcsin(x[:, 0, 0].numpy()), -1.5, 1.5)


def test_law_of_the_frequency():
    x = signals(n=4000, size=[101], frequency=[1, 3], amplitude=[1, 1], phase=[0, 0])
    assert_uniform(np.arcsin(x[:, 0, 5].numpy().astype(np.float64)) / (2 * pi * 0.05), 1, 3)


def test_law_of_the_noise_and_warning():
    settings = {"n": 500, "frequency": [1, 1], "amplitude": [1, 1], "phase": [0, 0]}
    noise = signals(**settings, noise=0.3) - signals(**settings)
    assert abs(noise.std() - 0.3) < 0.005 and abs(noise.mean()) < 0.006
    data = Sine(**settings, noise=0.3)
    data.setup()
    assert "beyond the [-1, 1]" in data.warning


def test_parameters_are_independent_of_each_other_and_of_channels():
    x = signals(n=4000, size=[5], channels=2, frequency=[1, 1], phase=[0, 0])[:, :, 1]
    assert x.shape == (4000, 2) and abs(np.corrcoef(x.T.numpy())[0, 1]) < 0.06


def test_seed():
    assert torch.equal(signals(seed=1), signals(seed=1)) and not torch.equal(signals(seed=1), signals(seed=2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frequency": [3, 1]}, r"data\.frequency must be .*, got \[3, 1\]"),
        ({"amplitude": [1]}, r"data\.amplitude must be .*, got \[1\]"),
        ({"phase": [0, 1, 2]}, r"data\.phase"),
        ({"phase": [0, float("nan")]}, r"data\.phase"),
        ({"noise": -1.0}, r"data\.noise must be >= 0, got -1\.0"),
        ({"size": [10, 10]}, r"data\.size must be .*, got \[10, 10\]"),
        ({"num_classes": 3}, r"data\.num_classes must be 0, .*, got 3"),
        ({"val_fraction": 1.0}, r"data\.val_fraction must be in \(0, 1\), got 1\.0"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(UserError, match=message):
        Sine(**settings)

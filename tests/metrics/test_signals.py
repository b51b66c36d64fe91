"""What is said of sine waves whose parameters are known."""

import math

import pytest
import torch

from src.data.sine import Sine
from src.metrics.signals import Signals, frequencies, mean_spectrum, spectrum
from src.statistics.power_spectrum import rms_decibels

RANGES = {"frequency": (1.0, 3.0), "amplitude": (0.5, 1.0), "phase": (0.0, 2 * math.pi), "noise": 0.0}


def waves(n, seed=0, length=100, noise=0.0, **ranges):
    """As the data module draws them."""
    ranges = {name: limits for name, limits in (RANGES | ranges).items() if name != "noise"}
    data = Sine(n + 1, 1 / (n + 1), size=[length], noise=noise, seed=seed, **ranges)
    data.load()
    return data.train_set.x


def test_the_data_module_has_its_distributions():
    data = Sine(frequency=[2, 4], amplitude=[0.1, 0.1], phase=[0, 1], noise=0.2)
    assert data.distributions == {"frequency": (2, 4), "amplitude": (0.1, 0.1), "phase": (0, 1), "noise": 0.2}


def test_true_waves(context):
    """They fit as well as the real data, without a residual."""
    found = Signals()(context(waves(300, 1), waves(200, 2), waves(300, 3), distributions=RANGES))
    assert found.interpretation.startswith("frequency, amplitude, phase: no significant difference")
    for name in ("frequency", "amplitude", "phase"):
        assert found.values[f"{name}_p"].value > 0.05
        assert found.values[f"{name}_wasserstein"].value < 3 * found.values[f"{name}_wasserstein"].real_baseline
    assert found.values["unexplained_power"].value < 1e-6 and found.values["residual"].value < 1e-4
    assert found.values["spectrum_db"].value < 0.5


@pytest.mark.parametrize(
    ("law", "expected"),
    [({"frequency": (1.5, 2.5)}, 0.25), ({"amplitude": (0.75, 1.25)}, 0.25), ({"phase": (0.0, math.pi)}, math.pi / 4)],
)
def test_waves_of_another_distribution(undrawn, context, law, expected):
    """The one parameter differs, by the distance of the two distributions."""
    found = Signals()(context(waves(400, 1, **law), waves(50, 2), waves(400, 3), distributions=RANGES))
    (name,) = law
    assert found.values[f"{name}_wasserstein"].value == pytest.approx(expected, rel=0.12)
    assert found.values[f"{name}_p"].value < 1e-9
    assert found.interpretation.startswith("Significantly different") and f"{name} (KS" in found.interpretation
    assert sum(found.values[f"{other}_p"].value > 0.01 for other in ("frequency", "amplitude", "phase")) == 2


def test_noise_is_left_over(undrawn, context):
    """0.1 in the samples, 0.05 in the data; of 100 numbers three are fitted."""
    noisy, real = waves(200, 1, noise=0.1), waves(200, 2, noise=0.05)
    found = Signals()(context(noisy, real, real, distributions=RANGES | {"noise": 0.05})).values["residual"]
    assert found.value == pytest.approx(0.1 * math.sqrt(0.97), rel=0.03)
    assert found.real_baseline == pytest.approx(0.05 * math.sqrt(0.97), rel=0.03) and found.better is None


def test_laws_that_are_points(undrawn, context):
    """The same wave each time; the samples a tenth louder."""
    point = {"frequency": (1.0, 1.0), "amplitude": (1.0, 1.0), "phase": (0.0, 0.0)}
    real = waves(20, **point)
    found = Signals()(context(1.1 * real, real, real, distributions=point | {"noise": 0.0}))
    assert found.values["amplitude_wasserstein"].value == pytest.approx(0.1, abs=1e-5)
    assert found.values["phase_wasserstein"].value < 1e-4 and "phase_ks" not in found.values
    assert "constants" in found.interpretation


def test_every_channel_counts(undrawn, context):
    two = waves(40, 1).view(20, 2, 100)
    section = Signals()(context(two, two, two, distributions=RANGES))
    one = Signals()(context(*[two.view(40, 1, 100)] * 3, distributions=RANGES))
    for key in ("frequency_wasserstein", "amplitude_ks", "residual"):
        assert section.values[key].value == pytest.approx(one.values[key].value, rel=1e-9)


def test_too_few_real_signals_are_said(undrawn, context):
    few = waves(30)
    section = Signals()(context(waves(100, 1), few, few[:10], distributions=RANGES))
    assert "computed from 40 signals, fewer than the 100 samples" in section.notes[-1]


def test_refuses_data_without_laws(context, rand):
    reason = Signals().why_not_applicable(context(rand(4, 1, 20), rand(4, 1, 20), rand(4, 1, 20)))
    assert "known distributions" in reason
    assert "it is for signals" in Signals().why_not_applicable(
        context(rand(4, 2), rand(4, 2), rand(4, 2), distributions=RANGES)
    )


@pytest.mark.parametrize("length", [99, 100])
def test_a_wave_is_a_peak_of_its_power(length):
    """Under the window nearly all of it lies within two bins of the frequency."""
    x = 0.8 * torch.sin(2 * math.pi * 12 * torch.linspace(0, 1, length, dtype=torch.float64))[None]
    power, near = spectrum(x)[0], (frequencies(length) - 12).abs() < 2.5
    assert power[near].sum().item() == pytest.approx(0.32, rel=0.02) and power[~near].sum() < 1e-4 * power.sum()


def test_white_noise_is_flat(randn):
    """Twice the share of its variance in each bin but the first and the last."""
    power = spectrum(0.5 * randn(20_000, 64)).mean(0)
    assert power[2:-2] == pytest.approx(torch.full((29,), 2 * 0.25 / 64).numpy(), rel=0.04)
    assert power.sum().item() == pytest.approx(0.25, rel=0.01)


def test_decibels():
    power = torch.tensor([1.0, 0.1, 1e-3])
    assert rms_decibels(10 * power, power) == pytest.approx(10)
    assert rms_decibels(power, torch.tensor([1.0, 0.1, 1e-9])) == pytest.approx(30 / math.sqrt(3)), "faint is 1e-6"


def test_spectra_in_parts(randn):
    x = randn(30, 20)
    torch.testing.assert_close(mean_spectrum(x.split(7)), spectrum(x).mean(0))

"""The fit finds the sine waves that are there, and says how far a signal is from one."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from torch.testing import assert_close

from src.statistics.sine_fit import fit_sines, positions, search_range


def waves(low, high, n=200, length=100):
    g = torch.Generator().manual_seed(0)
    f, a, phi = torch.rand(3, n, generator=g, dtype=torch.float64)
    f, a, phi = low + (high - low) * f, 0.5 + 0.5 * a, 2 * math.pi * phi
    return f, a, phi, a[:, None] * torch.sin(2 * math.pi * f[:, None] * positions(length) + phi[:, None])


@pytest.mark.parametrize(
    ("low", "high", "length"), [(1, 3, 100), (0.3, 0.9, 64), (1, 1, 32), (5, 20, 100), (0.1, 0.5, 50)]
)
def test_recovers_the_parameters(low, high, length):
    f, a, phi, x = waves(low, high, length=length)
    fit = fit_sines(x, *search_range(low, high))
    assert_close(fit.frequency, f, rtol=0, atol=2.6e-6)  # half the spacing of the last grid
    assert_close(fit.amplitude, a, rtol=0, atol=5e-4)
    turn = (fit.phase - phi + math.pi) % (2 * math.pi) - math.pi
    assert turn.abs().max() < 2e-3
    assert fit.residual.max() < 1e-4 and fit.unexplained.max() < 1e-6
    assert_close(fit.waves(length), x, rtol=0, atol=3e-4)


def test_agrees_with_a_general_solver(randn):
    """From where the search ends, Levenberg-Marquardt finds nothing better."""
    *_, x = waves(1, 3, n=10)
    x = x + 0.3 * randn(*x.shape)
    fit, u = fit_sines(x), positions(100).numpy()
    for i, signal in enumerate(x.numpy()):
        start = [v[i].item() for v in (fit.frequency, fit.amplitude, fit.phase)]
        better = least_squares(
            lambda p, y=signal: y - p[1] * np.sin(2 * np.pi * p[0] * u + p[2]), start, method="lm", xtol=1e-12
        )
        assert better.x == pytest.approx(start, abs=1e-4)
        assert np.sqrt(2 * better.cost / 100) == pytest.approx(fit.residual[i].item(), rel=1e-7)


@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_noise_is_what_is_left(randn, noise):
    """Of the three numbers that are fitted it takes its share: 3 of 100."""
    *_, x = waves(1, 3)
    fit = fit_sines(x + noise * randn(*x.shape))
    assert fit.residual.square().mean().sqrt() == pytest.approx(noise * math.sqrt(0.97), rel=0.02)


def test_another_wave_is_unexplained():
    u = positions(100)
    x = torch.sin(2 * math.pi * 2 * u) + 0.5 * torch.sin(2 * math.pi * 9 * u)
    assert fit_sines(x[None]).unexplained.item() == pytest.approx(0.25 / 1.25, abs=0.01)


def test_the_frequency_stays_in_its_range():
    x = torch.sin(2 * math.pi * 9 * positions(100))[None]
    assert fit_sines(x, 1, 3).frequency.item() == pytest.approx(2, abs=1)
    assert fit_sines(x, 1, 12).frequency.item() == pytest.approx(9, abs=1e-4)


def test_slow_waves_are_lines():
    """Which other waves are as close to, so that frequency and amplitude mean little."""
    *_, x = waves(0, 0.1)
    assert fit_sines(x, *search_range(0, 0.1)).residual.max() < 0.01


def test_silence_has_no_amplitude():
    fit = fit_sines(torch.zeros(2, 30))
    assert fit.amplitude.abs().max() == 0 == fit.unexplained.max() and fit.frequency.isfinite().all()


def test_many_signals_are_fitted_in_parts():
    *_, x = waves(1, 3, n=1001, length=20)
    whole, last = fit_sines(x), fit_sines(x[-1:])
    for a, b in zip(whole, last, strict=True):  # not to the bit: how matrix products add up depends on their sizes
        torch.testing.assert_close(a[-1:], b, rtol=0, atol=1e-4)


def test_the_search_goes_an_octave_below_and_a_cycle_above():
    assert search_range(2.0, 5.0) == (1.0, 6.0)


def test_single_precision_is_fitted_in_double():
    *_, x = waves(1, 3, n=5)
    for a, b in zip(fit_sines(x.float()), fit_sines(x.float().double()), strict=True):
        # Sums of other memory may be added in another order; single precision is a million times coarser.
        assert a.dtype == torch.float64 and (a - b).abs().max() < 1e-12


def test_the_search_keeps_to_its_ends():
    """Which a slower and a faster wave come up to; the lowest of all is a twentieth of a cycle."""
    u = positions(100)
    slow, fast = torch.sin(2 * math.pi * 0.7 * u)[None], torch.sin(2 * math.pi * 3.3 * u)[None]
    assert fit_sines(slow, 1, 3).frequency.item() == 1 and fit_sines(fast, 1, 3).frequency.item() == 3
    assert fit_sines(u[None], 0, 3).frequency.item() == pytest.approx(0.05)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_what_is_unexplained_has_no_unit(scale, randn):
    *_, x = waves(1, 3, n=5)
    x = x + 0.3 * randn(*x.shape)
    assert_close(fit_sines(scale * x).unexplained, fit_sines(x).unexplained, rtol=1e-6, atol=0)
    assert fit_sines(x).unexplained.min() > 0.05

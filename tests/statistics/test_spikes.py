"""Spikes are found where they were planted, and nowhere else."""

import math
import statistics

import pytest
import torch

from src.statistics.spikes import MIN_STEPS, WINDOW, Spike, SpikeDetector, median

STEPS = 1000


def values(spread=0.3, seed=0):
    """Log-normal, as sizes of a healthy training are."""
    noise = torch.randn(STEPS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (spread * noise).exp().tolist()


def watch(found, detector=None, first=1):
    detector = detector or SpikeDetector()
    for step, value in enumerate(found, first):
        detector.update(step, value, step / STEPS, 0.1)
    return detector


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_planted_spike_is_named(scale):
    found = [scale * v for v in values()]
    found[499] = 500 * scale
    found[799] = 50 * scale
    detector = watch(found)
    assert (detector.count, detector.last) == (2, 800)
    usual = math.exp(statistics.median(math.log(v / scale) for v in found[399:499]))
    assert detector.worst == Spike(500, 500 * scale, pytest.approx(500 / usual, rel=0.05), 0.5, 0.1)
    assert detector.largest == detector.worst and detector.usual == pytest.approx(scale, rel=0.1)


@pytest.mark.parametrize(
    "found",
    [
        values(0.3),
        values(0.8),
        [v * math.exp(-7 * k / STEPS) for k, v in enumerate(values())],
        [v * math.exp(7 * k / STEPS) for k, v in enumerate(values())],
        [v * (5 if k > 300 else 1) for k, v in enumerate(values())],
        [1.0] * STEPS,
        values(2.0),  # of which one in ten is ten times another
        [1.0] * (MIN_STEPS - 1) + [1e6],
    ],
    ids=["noise", "much noise", "falls", "grows", "a step", "constant", "noise of decades", "begins"],
)
def test_what_is_usual_is_no_spike(found):
    assert watch(found).count == 0


def test_small_values_are_no_spikes():
    found = [1e-4 * v for v in values()]
    found[500] = 0.1
    assert watch(found).count == 1 and watch(found, SpikeDetector(least=1.0)).count == 0


def test_what_lasts_becomes_usual():
    detector = watch([*values()[:500], *(100 * v for v in values()[500:])])
    assert 20 <= detector.count <= WINDOW // 2 + 1 and detector.last <= 500 + WINDOW // 2 + 1


def test_what_is_not_finite_is_left_out():
    clean = values()
    broken = [v for value in clean for v in (value, math.nan, math.inf, 0.0)]
    assert watch(broken).recent == watch(clean).recent and SpikeDetector().usual == 0


def test_it_goes_on_exactly():
    found = values()
    found[300], found[700] = 1e3, 1e4
    whole, first = watch(found), watch(found[:500])
    rest = SpikeDetector()
    rest.load_state_dict(first.state_dict())
    assert watch(found[500:], rest, 501).state_dict() == whole.state_dict()
    assert whole.count == 2 and whole.ordered == rest.ordered == sorted(whole.recent)


def test_the_median():
    for n in (1, 2, 5, 8):
        assert median(sorted(values()[:n])) == statistics.median_high(values()[:n])

"""What is said of curves whose course is known."""

import math

import pytest

from src.statistics.convergence import convergence_status, trend


def rows(curves: dict[str, list[float]]) -> list[dict[str, float]]:
    """Those of a metrics.csv, with a validation every 10 steps and 2 epochs, and training rows between."""
    n = len(next(iter(curves.values())))
    found = []
    for i in range(n):
        means = {f"val_ema/log_snr/{name}": losses[i] for name, losses in curves.items()}
        found += [
            {"step": 10 * i + 5, "epoch": 2 * i, "train/loss": 1.0},
            {"step": 10 * i + 10, "epoch": 2 * i + 1, **means, "val/loss_ema": sum(means.values()) / len(means)},
        ]
    return found


def falling(n: int, by: float) -> list[float]:
    return [(1 - by) ** i for i in range(n)]


def test_a_trend():
    assert trend([1.0, 0.9, 0.8, 0.7, 0.6, 0.5]).decrease == pytest.approx(1 - 0.5 / 0.7)
    flat = trend([1.0, 0.5, 0.4, 0.4, 0.399, 0.4])
    assert flat.since == 2 and flat.decrease == pytest.approx(1 - 0.399 / 0.4)
    assert trend([1.0, 0.5, 0.5, 0.5, 0.6, 0.7]).decrease == pytest.approx(-0.2)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nothing_is_concluded_from_a_loss_that_is_not_finite(bad):
    found = convergence_status(rows({"a_-inf..0": [*falling(9, 0.1), bad, bad, 1.0], "b_0..inf": falling(12, 0.1)}))
    assert found == ("not available: the validation loss is NaN or infinite at step 100", None, {})


def test_a_falling_loss_improves():
    found = convergence_status(rows({"a_-inf..0": falling(12, 0.1), "b_0..inf": falling(12, 0.1)}))
    assert found.improving and found.text.startswith("improving: the mean loss fell by 34.4%")


def test_a_level_that_still_falls_is_found_behind_a_flat_mean():
    """The one at low noise is a thousandth of the mean."""
    found = convergence_status(rows({"a_-inf..0": [1.0] * 12, "b_0..inf": [0.001 * v for v in falling(12, 0.05)]}))
    assert found.improving and found.relative_decrease["all"] < 0.001
    assert "at log-SNR 0 to inf by 18.5%" in found.text and "at 1 of 2 noise levels" in found.text


def test_a_plateau_is_dated():
    curve = [1.0, 0.8, 0.6, 0.5, *[0.45, 0.449, 0.4505] * 3]
    found = convergence_status(rows({"a_-inf..0": curve, "b_0..inf": [2 * v for v in curve]}))
    assert found.improving is False
    assert found.text.startswith("plateaued since step 50 (epoch 9): the mean loss fell by")


def test_what_is_learned_by_heart_rises():
    found = convergence_status(rows({"a_-inf..0": [1.0] * 12, "b_0..inf": [0.5] * 8 + [0.6] * 4}))
    assert found.improving is False and "at log-SNR 0 to inf it rose by 20.0%" in found.text


@pytest.mark.parametrize("n", [0, 1, 5])
def test_too_few_validations_say_nothing(n):
    found = convergence_status(rows({"a_-inf..0": [1.0] * max(n, 1)})[: 2 * n])
    assert found.improving is None and f"{n} validations" in found.text


def test_losses_that_are_not_positive():
    """Those of a bound, for which only the levels with positive losses count."""
    found = convergence_status(rows({"a_-inf..0": [-1.0] * 8, "b_0..inf": falling(8, 0.1)}))
    assert found.improving and "all" not in found.relative_decrease


def test_the_mean_alone_is_judged_where_no_levels_are_known():
    curve = falling(12, 0.1)
    found = convergence_status([{"step": i, "val/loss_ema": v} for i, v in enumerate(curve)])
    assert found.improving and found.text == "improving: the mean loss fell by 34.4% in the last third of the run"
    flat = convergence_status([{"step": i, "val/loss_ema": 1.0} for i in range(8)])
    assert flat.improving is False and flat.relative_decrease == {"all": 0.0}


@pytest.mark.parametrize(("last", "rose"), [(1.25, False), (1.26, True)])
def test_a_rise_within_the_tolerance_is_none(last, rose):
    found = convergence_status(rows({"a_-inf..0": [1.0] * 8 + [last] * 4}), tolerance=0.25)
    assert found.improving is False and ("overfitting" in found.text) == rose


@pytest.mark.parametrize(("last", "falls"), [(0.75, False), (0.74, True)])
def test_a_decrease_within_the_tolerance_is_none(last, falls):
    found = convergence_status(rows({"a_-inf..0": [1.0] * 8 + [last] * 4}), tolerance=0.25)
    assert found.improving is falls


def test_a_plateau_begins_with_the_last_noise_level_that_reaches_it():
    early, late = [1.0, *[0.5] * 11], [*falling(5, 0.1), *[0.6] * 7]
    for curves in ((early, late), (late, early)):
        found = convergence_status(rows(dict(zip(("a_-inf..0", "b_0..inf"), curves, strict=True))))
        assert found.text.startswith("plateaued since step 60 (epoch 11)")

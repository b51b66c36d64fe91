"""Progress counts steps and measures what training alone costs."""

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import timer

from src.callbacks.progress import Progress
from src.loggers.metrics_csv import read_metrics
from tests.helpers.tiny import StepClock, fit

pytestmark = pytest.mark.filterwarnings("ignore")


class Clock:
    """One that stands still, but for what steps and batches of validation take."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr("src.callbacks.progress.time", self)

    def perf_counter(self) -> float:
        return self.now


class Slow(pl.Callback):
    def __init__(self, clock: Clock, step: float, validation: float = 0.0):
        self.clock, self.step, self.validation = clock, step, validation

    def on_train_batch_start(self, *_):
        self.clock.now += self.step

    def on_validation_batch_start(self, *_):
        self.clock.now += self.validation


def rates(tmp_path) -> list[float]:
    key = "train/samples_per_second"
    return [row[key] for row in read_metrics(tmp_path / "metrics.csv") if key in row]


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 6), (2, 3)])
def test_the_speed_is_logged(tmp_path, monkeypatch, accumulate, steps):
    """Batches of 8 that take 20 ms are 400 samples a second."""
    progress, slow = Progress(), Slow(Clock(monkeypatch), 0.02)
    fit(
        tmp_path, callbacks=[progress, slow], max_steps=steps, accumulate_grad_batches=accumulate, log_every_n_steps=1
    )  # fmt: skip
    assert rates(tmp_path) == pytest.approx([400] * steps)
    # Of an epoch of five, the last step has one batch.
    assert progress.total_samples == (48 if accumulate == 1 else 40)
    assert progress.mean_rate == pytest.approx(400)


def test_validation_is_left_out(tmp_path, monkeypatch):
    progress, slow = Progress(), Slow(Clock(monkeypatch), 0.02, 0.2)
    fit(tmp_path, callbacks=[progress, slow], max_steps=6, val_check_interval=2, log_every_n_steps=2)
    assert progress.total_seconds == pytest.approx(6 * 0.02) and progress.elapsed > 3 * 0.2
    assert rates(tmp_path) == pytest.approx([400] * 3)


def test_one_bar_counts_all_steps(tmp_path, capsys):
    progress = Progress("images")
    fit(tmp_path, callbacks=[progress], max_steps=6, val_check_interval=2, accumulate_grad_batches=2)
    assert progress.bar.n == progress.bar.total == 6
    shown = capsys.readouterr().err
    assert "training" in shown and "6/6" in shown


def test_a_run_without_an_end_has_a_bar_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr(timer, "time", StepClock())
    progress = Progress()
    fit(tmp_path, callbacks=[progress], max_steps=-1, max_time={"seconds": 5})
    assert progress.bar.total is None and progress.bar.n > 0


def test_it_can_be_silenced(tmp_path, capsys):
    progress = Progress()
    progress.disable()
    fit(tmp_path, callbacks=[progress], max_steps=2)
    assert "training" not in capsys.readouterr().err

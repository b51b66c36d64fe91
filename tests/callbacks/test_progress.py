"""Progress counts steps and measures what training alone costs."""

import time

import pytest
import pytorch_lightning as pl

from src.callbacks.progress import Progress
from src.loggers.metrics_csv import read_metrics
from tests.helpers.tiny import fit

pytestmark = pytest.mark.filterwarnings("ignore")


class Slow(pl.Callback):
    def __init__(self, step: float, validation: float = 0.0):
        self.step, self.validation = step, validation

    def on_train_batch_start(self, *_):
        time.sleep(self.step)

    def on_validation_batch_start(self, *_):
        time.sleep(self.validation)


def rates(tmp_path) -> list[float]:
    key = "train/samples_per_second"
    return [row[key] for row in read_metrics(tmp_path / "metrics.csv") if key in row]


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 6), (2, 3)])
def test_the_speed_is_logged(tmp_path, accumulate, steps):
    """Batches of 8 that take 20 ms and a little are 400 samples a second at most."""
    progress = Progress()
    fit(
        tmp_path, callbacks=[progress, Slow(0.02)], max_steps=steps, accumulate_grad_batches=accumulate,
        log_every_n_steps=1,
    )  # fmt: skip
    logged = rates(tmp_path)
    assert len(logged) == steps
    assert all(20 < rate <= 400 for rate in logged)
    assert progress.total_samples == (48 if accumulate == 1 else 40)
    assert 20 < progress.mean_rate <= 400


def test_validation_is_left_out(tmp_path):
    progress = Progress()
    fit(tmp_path, callbacks=[progress, Slow(0.0, 0.2)], max_steps=6, val_check_interval=2, log_every_n_steps=2)
    assert progress.total_seconds < 0.4, "each of the three validations takes that long"
    assert len(rates(tmp_path)) == 3


def test_one_bar_counts_all_steps(tmp_path, capsys):
    progress = Progress("images")
    fit(tmp_path, callbacks=[progress], max_steps=6, val_check_interval=2, accumulate_grad_batches=2)
    assert progress.bar.n == progress.bar.total == 6
    shown = capsys.readouterr().err
    assert "training" in shown and "6/6" in shown


def test_a_run_without_an_end_has_a_bar_without_one(tmp_path):
    progress = Progress()
    fit(tmp_path, callbacks=[progress], max_steps=-1, max_time={"seconds": 0.5})
    assert progress.bar.total is None and progress.bar.n > 0


def test_it_can_be_silenced(tmp_path, capsys):
    progress = Progress()
    progress.disable()
    fit(tmp_path, callbacks=[progress], max_steps=2)
    assert "training" not in capsys.readouterr().err

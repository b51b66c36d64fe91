"""The convergence report, while a run trains and at its end."""

from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.callbacks.convergence import ConvergenceReport
from src.loggers.metrics_csv import MetricsCSV, read_metrics
from src.statistics.convergence import convergence_status
from tests.helpers.tiny import fit, make_module

pytestmark = pytest.mark.filterwarnings("ignore")


def test_it_reads_the_metrics_of_the_run(tmp_path):
    callback = ConvergenceReport(str(tmp_path))
    fit(tmp_path, callbacks=[callback], logger=[MetricsCSV(str(tmp_path))], max_steps=12, val_check_interval=2)
    expected = convergence_status(read_metrics(tmp_path / "metrics.csv"))
    assert expected.improving is not None
    assert callback.report == [("convergence", expected.text)]


def test_tensorboard_shows_it_by_noise_level(tmp_path):
    from pytorch_lightning.loggers import TensorBoardLogger

    loggers = [MetricsCSV(str(tmp_path)), TensorBoardLogger(str(tmp_path), name="", version="")]
    fit(tmp_path, callbacks=[ConvergenceReport(str(tmp_path))], logger=loggers, max_steps=12, val_check_interval=2)
    events = EventAccumulator(str(tmp_path)).Reload()
    texts = [e.tensor_proto.string_val[0].decode() for e in events.Tensors("convergence/text_summary")]
    assert "log-SNR" in texts[-1]


def test_of_a_loss_that_ranks_no_checkpoints_it_says_nothing(tmp_path):
    """Such a loss may rise while the model becomes better."""
    module, callback = make_module(), ConvergenceReport(str(tmp_path))
    module.loss.ranks_checkpoints = False
    loggers = [MetricsCSV(str(tmp_path))]
    fit(tmp_path, module, callbacks=[callback], logger=loggers, max_steps=12, val_check_interval=2)
    assert len(read_metrics(tmp_path / "metrics.csv")) >= 6 and callback.report == []


def test_without_metrics_it_says_nothing(tmp_path):
    callback = ConvergenceReport(str(tmp_path))
    fit(tmp_path, callbacks=[callback], logger=[], max_steps=2)
    assert callback.report == []


def test_a_slow_report_is_written_less_often(tmp_path, monkeypatch):
    """Reading takes 2 % of the time at most, however long the metrics are."""
    now = [100.0]
    monkeypatch.setattr("src.callbacks.convergence.time.monotonic", lambda: now[0])

    def slow_read(path):
        now[0] += 4.0
        return read_metrics(path)

    monkeypatch.setattr("src.callbacks.convergence.read_metrics", slow_read)
    (tmp_path / "metrics.csv").write_text("step,val/loss_ema\n1,1.0\n")
    report = ConvergenceReport(str(tmp_path))
    report.write_report(SimpleNamespace(loggers=[], global_step=1, lightning_module=make_module()))
    now[0] += 199.0
    assert report.is_recent()
    now[0] += 2.0
    assert not report.is_recent()

"""A run is built from the weights of another."""

from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from pytorch_lightning.loggers import CSVLogger

from src.callbacks.checkpoint import BestLastCheckpoint
from src.commands.trainer import load_weights_into, tolerant
from src.loggers.metrics_csv import MetricsCSV, read_metrics
from src.utils.sharded import SHARDED
from tests.helpers.tiny import fit, make_module

pytestmark = pytest.mark.filterwarnings("ignore")


def split(file: Path) -> Path:
    """The folder that several processes would have written."""
    whole, folder = torch.load(file, weights_only=True), file.with_name("split.ckpt")
    dcp.save({"state_dict": whole.pop("state_dict")}, checkpoint_id=folder, no_dist=True)
    whole.pop("optimizer_states")
    torch.save(whole, folder / SHARDED)
    return folder


@pytest.mark.parametrize("sharded", [False, True])
def test_a_new_run_begins_with_the_weights_of_another(tmp_path, sharded):
    trained, *_ = fit(tmp_path, make_module(lr=0.1), callbacks=[BestLastCheckpoint(str(tmp_path))])
    source = split(tmp_path / "last.ckpt") if sharded else tmp_path / "last.ckpt"
    module = make_module(lr=0.1)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    assert load_weights_into(module, source) == 6
    raw, average = (dict(getattr(trained, name).named_parameters()) for name in ("denoiser", "ema"))
    for key, value in module.denoiser.named_parameters():
        assert torch.equal(value, raw[key]) and not torch.equal(value, before[f"denoiser.{key}"])
    for key, value in module.ema.named_parameters():
        assert torch.equal(value, average[key]) and not torch.equal(value, before[f"ema.{key}"])


class Deaf(CSVLogger):
    def log_metrics(self, metrics, step=None):
        raise OSError("no room")

    def save(self):
        raise OSError("no room")


@pytest.mark.tolerates
def test_a_run_goes_on_without_a_logger_that_fails(tmp_path, caplog):
    loggers = [tolerant(Deaf(str(tmp_path), "", "")), tolerant(MetricsCSV(str(tmp_path)))]
    checkpoint = BestLastCheckpoint(str(tmp_path / "checkpoints"))
    fit(tmp_path, callbacks=[checkpoint], logger=loggers, val_check_interval=3)
    assert read_metrics(tmp_path / "metrics.csv")[-1]["step"] == 6 and checkpoint.last_path.exists()
    assert [record.getMessage() for record in caplog.records if "Deaf" in record.getMessage()] == [
        "WARNING: logger Deaf failed, and the run goes on without: OSError: no room"
    ]


def test_but_not_without_its_record(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no room")

    monkeypatch.setattr(MetricsCSV, "log_metrics", fail)
    with pytest.raises(OSError, match="no room"):
        fit(tmp_path, logger=[tolerant(MetricsCSV(str(tmp_path)))])

"""src.monitor on a trained run: what it writes, its exit codes, and mistakes on its command line."""

import json

import numpy as np
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from src.data.digits import Digits

SMALL = ["features.width=8", "drift.max_samples=150", "metrics=[samples,pixels]"]


@pytest.fixture(scope="module")
def run(make_run, tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("monitor")
    return make_run(folder / "run", "experiment=digits_ddpm", *tiny, f"paths.outputs={folder}")


@pytest.fixture(scope="module")
def digits():
    """The digits of the held-out part, and their labels."""
    data = Digits()
    data.setup()
    batch = data.test_set[0, torch.arange(len(data.test_set))]
    return (batch["x"].numpy() + 1) / 2, batch["label"].numpy()


@pytest.mark.parametrize(("turned", "code"), [(False, 0), (True, 3)])
def test_new_digits(command, run, digits, tmp_path, turned, code):
    x, label = digits
    np.savez(tmp_path / "new.npz", x=x[:, :, ::-1] if turned else x, label=label)
    out, file = tmp_path / "out", tmp_path / "run.prom"
    done = command("monitor", f"run={run}", f"new={tmp_path}/new.npz", f"out={out}", f"textfile={file}", *SMALL,
                   f"paths.outputs={run.parent}")  # fmt: skip
    assert done.code == code, done.error
    assert ("ALARM" in done.out) == turned and str(out / "report.html") in done.out
    record = json.loads((out / "monitor.json").read_text())
    assert (record["drift"], record["exit_code"], record["n"]) == (turned, code, len(x))
    different = {test["group"] for test in record["tests"] if test["differs"]}
    assert ("class 4" in different) == turned and "class 0" not in different
    assert "brightness" in record["metrics"]["mean_bias_percent"]["name"]
    found = {f.name: f.samples for f in text_string_to_metric_families(file.read_text())}
    assert found["diffusion_monitor_drift"][0].value == turned
    of_classes = {s.labels["group"]: s.value for s in found["diffusion_monitor_p_value"]}
    assert (of_classes["class 4"] <= 0.01) == turned
    page = (out / "report.html").read_text()
    assert ("different" in page) and "class 4" in page and (out / "farthest.png").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "run=RUN must be given"),
        (["run=nowhere", "new=x"], "there is no run folder nowhere"),
        (["run={run}"], "new=DATA, a folder of pictures"),
        (["run={run}", "new=nowhere"], "new=nowhere does not exist"),
        (["run={run}", "new={few}"], "must hold at least 10 samples, got 3"),
        (["run={run}", "new={few}", "drift.false_alarm_rate=2"], "drift.false_alarm_rate must be"),
        (["run={run}", "new={few}", "drift.false_alarms=0.1"], "drift.false_alarms: there is no such option"),
        (["run={run}", "new={few}", "textfile=/proc/none/x.prom"], "textfile=/proc/none cannot be written to"),
        (["run={run}", "new={few}", "out={data}"], "holds old.png, which no command of this project wrote"),
    ],
    ids=str,
)
def test_mistakes(command, run, tmp_path, monkeypatch, words, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "few.npy", np.zeros((3, 1, 8, 8)))
    (tmp_path / "data" / "old.png").touch()
    words = [w.format(run=run, few="data/few.npy", data="data") for w in words]
    done = command("monitor", *words)
    assert done.code == 1
    assert done.error.count("\n") == 1 and reason in done.error, done.error
    assert not (run / "monitoring").exists()

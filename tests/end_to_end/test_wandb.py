"""logger=wandb: what an offline run holds, and what keeps one from beginning."""

import base64
import hashlib
import json
import os
import struct
import sys
from pathlib import Path

import pytest
import yaml

from src.loggers.metrics_csv import read_metrics

OFFLINE = ["experiment=digits_ddpm", "logger=wandb", "logger.wandb.offline=true"]


@pytest.fixture(autouse=True)
def nobody(tmp_path, monkeypatch):
    """A home where nobody has ever logged in, and the end of wandb's own process."""
    import wandb

    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield
    wandb.teardown()


def records(run: Path) -> list:
    """What wandb wrote in the run folder, in order: LevelDB's log format, 7 bytes of header before the first block."""
    from wandb.proto import wandb_internal_pb2

    (file,) = run.glob("*.wandb")
    content, found, at, parts = file.read_bytes(), [], 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # what is left of a block is too short for a record
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        parts, at = parts + content[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or the last part of one
            found.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return found


def history(run: Path) -> list[dict]:
    """What was logged, a dict a call."""
    rows = (record.history.item for record in records(run) if record.WhichOneof("record_type") == "history")
    return [{".".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]


def test_an_offline_run_holds_metrics_pictures_config_and_checkpoints(command, tiny, tmp_path):
    run = tmp_path / "run"
    done = command(
        "train",
        *OFFLINE,
        *(word for word in tiny if "sample_images" not in word),
        "callbacks.sample_images.every_n_steps=1",
        "logger.wandb.tags=[one,two]",
        f"hydra.run.dir={run}",
    )
    assert done.code == 0, done.error
    (written,) = run.glob("wandb/offline-run-*")

    rows = history(written)
    for expected in read_metrics(run / "metrics.csv"):
        values = {k: v for row in rows if row.get("trainer/global_step") == expected["step"] for k, v in row.items()}
        assert {k: values.get(k) for k in expected if k != "step"} == {k: v for k, v in expected.items() if k != "step"}

    for name in ("raw", "ema"):
        shown = [row[key][0] for row in rows if (key := f"samples/{name}.filenames") in row]
        drawn = [run / f"samples/step_{step:06d}_{name}.png" for step in (1, 2)]
        assert [(written / "files" / p).read_bytes() for p in shown] == [p.read_bytes() for p in drawn]
    assert {"denoised.filenames", "schedule.filenames", "loss_curves.filenames"} <= {key for row in rows for key in row}

    (begun,) = [r.run for r in records(written) if r.WhichOneof("record_type") == "run"]
    config = {item.key: json.loads(item.value_json) for item in begun.config.update}
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert {k: config[k] for k in saved} == saved
    assert (begun.project, begun.display_name, list(begun.tags)) == ("diffusion-lab", "digits_ddpm", ["one", "two"])

    (artifact,) = [r.artifact for r in records(written) if r.WhichOneof("record_type") == "artifact"]
    files = {entry.path: entry for entry in artifact.manifest.contents}
    assert artifact.type == "model" and set(files) == {"best.ckpt", "last.ckpt"}
    for name, entry in files.items():
        content = (run / "checkpoints" / name).read_bytes()
        assert entry.digest == base64.b64encode(hashlib.md5(content).digest()).decode()
        assert Path(entry.local_path).is_relative_to(run) and Path(entry.local_path).read_bytes() == content
    assert [p for p in (tmp_path / "home").rglob("*") if p.suffix == ".ckpt" or "staging" in p.parts] == []


@pytest.mark.slow
def test_a_resumed_run_goes_on_under_its_id_and_each_job_of_a_sweep_has_its_own(command, tiny, tmp_path):
    done = command("train", "-m", *OFFLINE, *tiny, "seed=1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert done.code == 0, done.error
    jobs = [[p.name.split("-")[-1] for p in (tmp_path / "sweep" / job).glob("wandb/offline-run-*")] for job in "01"]
    assert len(jobs[0]) == len(jobs[1]) == 1 and jobs[0] != jobs[1]
    done = command("train", f"resume={tmp_path / 'sweep/0'}", "trainer.max_steps=3")
    assert done.code == 0, done.error
    assert [p.name.split("-")[-1] for p in (tmp_path / "sweep/0").glob("wandb/offline-run-*")] == jobs[0] * 2


@pytest.mark.most(2)
@pytest.mark.parametrize(
    ("installed", "key", "words", "parts"),
    [
        (False, None, [], ["not installed", "pip install wandb"]),
        (False, None, ["logger.wandb.offline=true"], ["not installed", "pip install wandb"]),
        (True, None, [], ["not logged in", "wandb login", "logger.wandb.offline=true"]),
        (True, "short", [], ["key", "wandb login", "logger.wandb.offline=true"]),
    ],
)
def test_a_run_that_cannot_be_logged_does_not_begin(command, tmp_path, monkeypatch, installed, key, words, parts):
    if not installed:
        monkeypatch.setitem(sys.modules, "wandb", None)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    run = tmp_path / "run"
    done = command("train", "experiment=digits_ddpm", "trainer=cpu", "logger=wandb", *words, f"hydra.run.dir={run}")
    lines = [line for line in done.error.splitlines() if line.startswith("error: ")]
    assert done.code == 1 and len(lines) == 1 and "Traceback" not in done.error, done.error
    assert all(part in lines[0] for part in parts), lines[0]
    assert not run.exists()

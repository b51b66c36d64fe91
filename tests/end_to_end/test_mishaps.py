"""What happens to a run from outside: a closed terminal, a folder that is moved, a loader that is killed."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch

from src.loggers.metrics_csv import read_metrics
from src.nets.mlp import MLP
from tests.end_to_end.running import POINTS, SETTINGS, assert_same_run, forked
from tests.helpers.memory import limited

LONG = [*POINTS, "trainer.log_every_n_steps=1", "trainer.max_steps=100000"]


def step_of(run: Path) -> int:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"]


def has_logged(run: Path, step: int):
    file = run / "metrics.csv"
    return lambda: file.exists() and any(row["step"] >= step for row in read_metrics(file))


def workers_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes by /proc")
@pytest.mark.parametrize("number", [signal.SIGHUP, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_to_all_processes_saves(tmp_path, number):
    """As a closed terminal and a cluster send it: to the loaders too, which must not end before the step has."""
    run = tmp_path / "run"
    words = [*LONG, "data.num_workers=1", f"hydra.run.dir={run}"]
    done = forked(*words, kill_when=has_logged(run, 3), number=number, of=lambda pid: [*workers_of(pid), pid])
    assert done.returncode == 128 + number, done.stderr
    assert f"stopped by {signal.Signals(number).name} at step {step_of(run)}, which is saved" in done.stderr
    assert "Traceback" not in done.stderr and step_of(run) >= 3


@pytest.mark.parametrize(
    "after", [*(pytest.param(each, marks=pytest.mark.slow) for each in ("renamed", "removed")), "replaced"]
)
def test_a_run_whose_folder_goes_away_stops(tmp_path, after):
    run, there = tmp_path / "run", tmp_path / "there"
    gone = has_logged(run, 3)

    def take_away() -> None:
        if not run.exists() or not gone() or there.exists():
            return
        run.rename(there)
        if after == "removed":
            shutil.rmtree(there)
        if after == "replaced":
            run.mkdir()

    done = forked(*LONG, "callbacks.checkpoint.every_n_steps=1", f"hydra.run.dir={run}", kill_when=take_away)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert f"error: {run}" in done.stderr and "was removed or renamed during the run" in done.stderr
    assert not (run / "run.json").exists() and not (run / "metrics.csv").exists()
    assert run.exists() == (after == "replaced")
    if after != "removed":
        assert forked(f"resume={there}", f"trainer.max_steps={step_of(there) + 1}").returncode == 0


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes by /proc")
def test_a_killed_loader_is_said(tmp_path):
    run = tmp_path / "run"
    words = [*LONG, "data.num_workers=1", f"hydra.run.dir={run}"]
    done = forked(*words, kill_when=has_logged(run, 3), number=signal.SIGKILL, of=workers_of)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    # A thread of Python's complains where the loader was killed while it received what to load.
    tracebacks = done.stderr.split("Traceback")[1:]
    assert done.returncode == 1 and all("resource_sharer.py" in text for text in tracebacks), done.stderr
    assert "a data loader process was killed" in line and "data.num_workers=0" in line
    assert line.endswith(f"Resume it with: python -m src.train resume={run}")
    assert json.loads((run / "run.json").read_text())["failed"] in line


@pytest.mark.parametrize("after", [pytest.param(0, marks=pytest.mark.slow), 12])
def test_a_full_device_is_said_with_what_fits(tmp_path, monkeypatch, command, after):
    """The one line names the command that makes the same steps, from the checkpoint if there is one; it works."""
    run = tmp_path / "run"
    words = [*POINTS, "callbacks.checkpoint.every_n_steps=5", "trainer.max_steps=15", "trainer.val_check_interval=100"]
    with monkeypatch.context() as patch:
        limited(patch, MLP, 60, after)
        done = command("train", *words, f"hydra.run.dir={run}")
        assert done.code == 1 and "Traceback" not in done.error
        (line,) = [line for line in done.error.splitlines() if line.startswith("error: ")]
        assert f"in a training step, at step {after} with data.batch_size=100: CUDA out of memory. Tried to" in line
        said = "the last checkpoint is kept" if after else "there is no checkpoint yet"
        assert said in line and line.removeprefix("error: ") == json.loads((run / "run.json").read_text())["failed"]
        again = line.partition("python -m src.train ")[2].split()
        assert again[-3:] == [
            "data.batch_size=50",
            "trainer.accumulate_grad_batches=2",
            "trainer.val_check_interval=200",
        ]
        assert (f"resume={run}" in again) is bool(after)
        if after:
            assert step_of(run) == 10 and command("train", *again).code == 0 and step_of(run) == 15
            done = command("sample", f"run={run}", "n=300")
            assert "32 fit: use batch_size=32" in done.error and done.code == 1


@pytest.mark.slow
def test_a_run_that_ended_early_is_reported_from_its_checkpoint(tmp_path):
    """Killed after its last checkpoint, which no step of its planned length tells to be the last."""
    words = [*SETTINGS, "callbacks=early_stopping", "callbacks.early_stopping.patience=1", "optimizer.lr=1e-9"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert forked(*words, f"hydra.run.dir={whole}").returncode == 0
    shutil.copytree(whole, broken)
    facts = json.loads((broken / "run.json").read_text())
    results = facts.pop("results")
    assert 0 < results["steps"] < 17
    (broken / "run.json").write_text(json.dumps(facts))
    done = forked(f"resume={broken}")
    assert done.returncode == 0, done.stderr
    assert_same_run(whole, broken)
    again = json.loads((broken / "run.json").read_text())["results"]
    assert {k: again[k] for k in ("steps", "best_val_loss", "best_step", "val/loss_ema", "val/loss_raw")} == {
        k: results[k] for k in ("steps", "best_val_loss", "best_step", "val/loss_ema", "val/loss_raw")
    }

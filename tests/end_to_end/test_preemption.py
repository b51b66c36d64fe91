"""Jobs that are stopped by a time limit or a cluster, and go on without a thought."""

import json
import os
import signal

import pytest
import torch
from filelock import FileLock

from src.commands import run_setup
from src.loggers.metrics_csv import read_metrics
from tests.end_to_end.running import POINTS, assert_same_run, forked
from tests.helpers.faults import dies_at

LONG = [*POINTS, "trainer.log_every_n_steps=1", "trainer.max_steps=100000"]


def runs(outputs):
    return sorted(outputs.glob("train/mixture_ddpm/*"))


def steps(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"]


def goes_on_from(outputs, step):
    """Whether a run there has made some steps more than this."""

    def does() -> bool:
        files = [run / "metrics.csv" for run in runs(outputs)]
        return any(row["step"] > step + 1 for file in files if file.exists() for row in read_metrics(file))

    return does


def test_the_warning_of_slurm_saves_and_requeues(tmp_path, monkeypatch):
    """And what is requeued goes on in the one folder."""
    asked, scontrol = tmp_path / "asked", tmp_path / "bin/scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    words = [*LONG, f"paths.outputs={tmp_path}", "auto_resume=true"]
    before = 0
    for time in (1, 2):
        stopped = forked(*words, kill_when=goes_on_from(tmp_path, before), number=signal.SIGUSR1)
        assert stopped.returncode == 128 + signal.SIGUSR1, stopped.stderr
        (run,) = runs(tmp_path)
        assert f"stopped by SIGUSR1 at step {steps(run)}, which is saved. Job 4711 is requeued" in stopped.stderr
        assert asked.read_text() == "requeue 4711\n" * time
        assert steps(run) > before
        before = steps(run)


def test_a_failed_requeue_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("PATH", str(tmp_path))
    words = [*LONG, f"paths.outputs={tmp_path}"]
    stopped = forked(*words, kill_when=goes_on_from(tmp_path, 0), number=signal.SIGUSR1)
    assert "SLURM did not requeue job 4711" in stopped.stderr and len(runs(tmp_path)) == 1


def test_the_newest_run_of_the_same_settings_goes_on(tmp_path):
    """Killed, it ends as an undisturbed one; one of other settings is left alone; a finished one is not run again."""
    words = [*POINTS, "trainer.max_steps=9", "trainer.val_check_interval=5", "callbacks.checkpoint.every_n_steps=1"]
    whole, outputs = tmp_path / "whole", tmp_path / "outputs"
    assert forked(*words, f"hydra.run.dir={whole}").returncode == 0
    here = [*words, f"paths.outputs={outputs}", "auto_resume=true"]
    assert forked(*here, first=dies_at(6)).returncode == -signal.SIGKILL
    assert forked(*here, "seed=1", "trainer.max_steps=1").returncode == 0
    (first, other) = runs(outputs)
    done = forked(*here)
    assert done.returncode == 0 and runs(outputs) == [first, other], done.stderr
    assert_same_run(whole, first)
    again = forked(*here)
    assert again.returncode == 0 and f"{first} is already finished" in again.stderr
    assert runs(outputs) == [first, other]


@pytest.mark.slow
def test_a_run_that_never_saved_begins_anew_in_its_folder(tmp_path):
    words = [*POINTS, f"paths.outputs={tmp_path}", "auto_resume=true", "trainer.max_steps=3"]
    assert forked(*words, "trainer.val_check_interval=3").returncode == 0
    (run,) = runs(tmp_path)
    (run / "checkpoints/last.ckpt").unlink()
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({k: v for k, v in facts.items() if k not in ("results", "finished")}))
    assert forked(*words, "trainer.val_check_interval=3").returncode == 0
    assert runs(tmp_path) == [run] and steps(run) == 3
    assert sum("val/loss_ema" in row for row in read_metrics(run / "metrics.csv")) == 1


@pytest.mark.slow
def test_max_time_is_that_of_each_start(tmp_path):
    words = [*LONG, f"paths.outputs={tmp_path}", "auto_resume=true", "trainer.max_time=00:00:00:03"]
    made = []
    for _ in range(2):
        done = forked(*words)
        assert done.returncode == 0 and "Out of time" in done.stderr, done.stderr
        (run,) = runs(tmp_path)
        assert not json.loads((run / "run.json").read_text())["finished"]
        assert f"python -m src.train resume={run}\n" in done.stderr
        made.append(steps(run))
    assert 0 < made[0] < made[1]


def test_two_processes_do_not_train_in_one_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(run_setup, "LOCK_TIMEOUT", 0.1)
    run = tmp_path / "run"
    start = [*POINTS, "trainer.max_steps=2", f"hydra.run.dir={run}"]
    assert forked(*start).returncode == 0
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({k: v for k, v in facts.items() if k not in ("results", "finished")}))
    for words in ([f"resume={run}", "trainer.max_steps=9"], [*start, "auto_resume=true"]):
        with FileLock(run / ".lock"):
            second = forked(*words)
        assert second.returncode == 1 and "is being trained by another process" in second.stderr

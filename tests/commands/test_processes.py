"""Several processes train as one does, and several jobs beside each other."""

import pytest
import torch
import yaml

from src.utils.metrics_csv import read_metrics
from tests.commands.running import SETTINGS, assert_same_run, forked, kill_at, started


def test_two_processes_resume_exactly(tmp_path):
    words = [*SETTINGS, "trainer=ddp_cpu", "trainer.precision=32-true", "callbacks.checkpoints.every_n_steps=1"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = started(*words, f"hydra.run.dir={whole}")
    assert done.returncode == 0, done.stderr
    assert started(*words, f"hydra.run.dir={broken}", *kill_at(9)).returncode != 0
    resumed = started(f"resume={broken}", "callbacks.fault=null")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(whole, broken)


def test_one_and_two_processes_agree(tmp_path):
    """The global batch, its noise and its times do not depend on the number of processes; dropout does."""
    same = ["net.dropout=0", "trainer.max_steps=8", "callbacks=quality", "callbacks.quality.n=81"]
    same += ["callbacks.quality.every_n_steps=4", "callbacks.quality.steps=4"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert forked(*SETTINGS, *same, f"hydra.run.dir={one}").returncode == 0
    done = started(*SETTINGS, "trainer=ddp_cpu", "trainer.precision=32-true", *same, f"hydra.run.dir={two}")
    assert done.returncode == 0, done.stderr
    losses = [
        [(r["step"], r["train/loss"]) for r in read_metrics(run / "metrics.csv") if "train/loss" in r]
        for run in (one, two)
    ]
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-4, atol=1e-5)
    distances = [
        [
            (r["step"], r["quality/frechet"], r["quality/floor"])
            for r in read_metrics(run / "metrics.csv")
            if "quality/frechet" in r
        ]
        for run in (one, two)
    ]
    assert len(distances[0]) == 2
    torch.testing.assert_close(torch.tensor(distances[0]), torch.tensor(distances[1]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("trainer", ["cpu", "ddp_cpu"])
def test_a_sweep_makes_a_folder_for_each_job(tmp_path, trainer):
    words = [
        "-m",
        "experiment=digits_ddpm",
        "schedule=linear,cosine",
        f"trainer={trainer}",
        "debug=two_steps",
        "net.width=8",
        f"paths.outputs={tmp_path}",
    ]
    done = (forked if trainer == "cpu" else started)(*words)
    assert done.returncode == 0, done.stderr
    jobs = sorted(p.parent for p in tmp_path.glob("sweeps/digits_ddpm/*/*/config.yaml"))
    assert [j.name for j in jobs] == ["0", "1"]
    targets = [yaml.safe_load((j / "config.yaml").read_text())["schedule"]["_target_"].split(".")[-1] for j in jobs]
    assert targets == ["linear", "cosine"]

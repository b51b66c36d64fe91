"""Several processes train as one does, and several jobs beside each other."""

from pathlib import Path

import pytest
import torch
import yaml

from src.utils.metrics_csv import read_metrics
from tests.commands.running import SETTINGS, assert_same_run, forked, kill_at, started

# Dropout depends on the number of processes; nothing else does.
SAME = [*SETTINGS, "net.dropout=0", "callbacks=quality", "callbacks.quality.n=81", "callbacks.quality.every_n_steps=8"]
SAME += ["callbacks.quality.steps=4", "callbacks.checkpoints.every_n_steps=1"]
TWO = [*SAME, "trainer=ddp_cpu", "trainer.precision=32-true"]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """A run of two processes."""
    run = tmp_path_factory.mktemp("two")
    done = started(*TWO, f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    return run


def test_two_processes_resume_exactly(two, tmp_path):
    assert started(*TWO, f"hydra.run.dir={tmp_path}", *kill_at(9)).returncode != 0
    resumed = started(f"resume={tmp_path}", "callbacks.fault=null")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(two, tmp_path)


def test_one_and_two_processes_agree(two, tmp_path):
    """The global batch, its noise and its times, and the samples that are measured on the way."""
    done = forked(*SAME, f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    for keys, count in ((["train/loss"], 8), (["quality/frechet", "quality/floor"], 2)):
        found = [
            [[row["step"], *(row[key] for key in keys)] for row in read_metrics(run / "metrics.csv") if keys[0] in row]
            for run in (tmp_path, two)
        ]
        assert len(found[0]) == count
        torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(found[1]), rtol=1e-3, atol=1e-3)


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

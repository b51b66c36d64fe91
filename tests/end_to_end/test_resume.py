"""A run that is killed and resumed ends exactly where an undisturbed one does."""

from pathlib import Path

import pytest
import torch

from src.loggers.metrics_csv import read_metrics
from tests.end_to_end.running import POINTS, SETTINGS, assert_same, assert_same_run, forked, kill_at

WORDS = [*SETTINGS, "trainer.max_steps=11"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed")
    done = forked(*WORDS, f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.parametrize(
    ("kill", "extra"),
    [
        pytest.param(kill_at(9), [], id="in mid-epoch"),
        pytest.param(kill_at(7), [], id="between epochs", marks=pytest.mark.slow),
        pytest.param(kill_at(10, validating=True), [], id="while validating", marks=pytest.mark.slow),
        pytest.param(kill_at(9), ["data.num_workers=2"], id="with workers", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_resumes_to_the_same_bits(undisturbed, tmp_path, kill, extra):
    words = [*WORDS, *extra, "callbacks.checkpoint.every_n_steps=1", f"hydra.run.dir={tmp_path}"]
    killed = forked(*words, *kill)
    assert killed.returncode == -9, killed.stderr
    resumed = forked(f"resume={tmp_path}", "callbacks.fault=null")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(undisturbed, tmp_path)


@pytest.mark.slow
def test_accumulated_steps_resume_exactly(tmp_path):
    words = [
        *SETTINGS,
        "trainer.accumulate_grad_batches=3",
        "trainer.max_steps=6",
        "callbacks.checkpoint.every_n_steps=1",
    ]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert forked(*words, f"hydra.run.dir={whole}").returncode == 0
    assert forked(*words, f"hydra.run.dir={broken}", *kill_at(4)).returncode == -9
    resumed = forked(f"resume={broken}", "callbacks.fault=null")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(whole, broken)


@pytest.mark.slow
def test_power_averages_and_their_snapshots_resume_exactly(tmp_path):
    words = [
        *SETTINGS,
        "ema=power_function",
        "callbacks.ema_snapshots.count=6",
        "callbacks.checkpoint.every_n_steps=4",
        "callbacks.checkpoint.keep_every_n_steps=6",
    ]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = forked(*words, f"hydra.run.dir={whole}")
    assert done.returncode == 0, done.stderr
    assert forked(*words, f"hydra.run.dir={broken}", *kill_at(14)).returncode == -9
    resumed = forked(f"resume={broken}", "callbacks.fault=null")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(whole, broken)
    state = torch.load(whole / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert any(key.startswith("ema.others.0.model.") for key in state)
    for pattern, names in (
        ("snapshots/*", [f"step_{n:06d}.pt" for n in (3, 6, 9, 12, 15, 17)]),
        ("checkpoints/step_*", ["step_12.ckpt", "step_6.ckpt"]),
    ):
        files = [sorted(run.glob(pattern)) for run in (whole, broken)]
        assert [p.name for p in files[0]] == [p.name for p in files[1]] == names
        for a, b in zip(*files, strict=True):
            a, b = (torch.load(p, weights_only=True) for p in (a, b))
            a, b = (x.get("state_dict", x) for x in (a, b))
            assert_same(a, b, pattern)


def test_a_finished_run_can_be_made_longer(tmp_path):
    assert forked(*POINTS, "trainer.max_steps=2", f"hydra.run.dir={tmp_path}").returncode == 0
    longer = forked(f"resume={tmp_path}", "trainer.max_steps=4", "trainer.log_every_n_steps=1")
    assert longer.returncode == 0, longer.stderr
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    assert read_metrics(tmp_path / "metrics.csv")[-1]["step"] == 4

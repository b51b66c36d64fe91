"""A run that is killed and resumed ends exactly where an undisturbed one does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from src.utils.metrics_csv import read_metrics

# Seven batches an epoch; dropout, label dropout, flips and accumulation all draw random numbers.
SETTINGS = [
    "experiment=digits_ddpm",
    "data.batch_size=200",
    "net.width=8",
    "net.dropout=0.2",
    "net.num_classes=10",
    "module.conditional=true",
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.max_steps=17",
    "trainer.val_check_interval=5",
    "trainer.log_every_n_steps=2",
    "callbacks.pictures.n=10",
    "callbacks.pictures.every_n_steps=5",
    "sampler.steps=2",
    "logger=csv",
]


def train(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "src.train", *words], capture_output=True, text=True)


def kill_at(step: int, validating: bool = False) -> list[str]:
    return [
        "+callbacks.fault._target_=tests.faults.SignalAt",
        f"+callbacks.fault.step={step}",
        f"+callbacks.fault.validating={validating}",
    ]


def assert_same(a, b, where: str = "") -> None:
    """Equal to the last bit, through all containers."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{i}")
    else:
        assert a == b, where


def assert_same_run(a: Path, b: Path) -> None:
    first, second = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (a, b))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert_same(first[part], second[part], part)
    first, second = (torch.load(run / "checkpoints/best.ckpt", weights_only=True) for run in (a, b))
    assert first["global_step"] == second["global_step"]
    assert_same(first["state_dict"], second["state_dict"], "best")
    rows = [
        [{k: v for k, v in row.items() if k != "train/samples_per_second"} for row in read_metrics(run / "metrics.csv")]
        for run in (a, b)
    ]
    assert rows[0] == rows[1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed")
    done = train(*SETTINGS, f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.parametrize(
    ("kill", "extra"),
    [
        pytest.param(kill_at(9), [], id="in mid-epoch"),
        pytest.param(kill_at(7), [], id="between epochs"),
        pytest.param(kill_at(10, validating=True), [], id="while validating"),
        pytest.param(kill_at(15), ["data.num_workers=2"], id="with workers"),
    ],
)
def test_a_killed_run_resumes_to_the_same_bits(undisturbed, tmp_path, kill, extra):
    words = [*SETTINGS, *extra, "callbacks.checkpoints.every_n_steps=1", f"hydra.run.dir={tmp_path}"]
    killed = train(*words, *kill)
    assert killed.returncode == -9, killed.stderr
    resumed = train(f"resume={tmp_path}", "callbacks.fault=null")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(undisturbed, tmp_path)


def test_accumulated_steps_resume_exactly(tmp_path):
    words = [
        *SETTINGS,
        "trainer.accumulate_grad_batches=3",
        "trainer.max_steps=6",
        "callbacks.checkpoints.every_n_steps=1",
    ]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train(*words, f"hydra.run.dir={whole}").returncode == 0
    assert train(*words, f"hydra.run.dir={broken}", *kill_at(4)).returncode == -9
    resumed = train(f"resume={broken}", "callbacks.fault=null")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(whole, broken)


def test_two_processes_resume_exactly(tmp_path):
    words = [*SETTINGS, "trainer=ddp_cpu", "trainer.precision=32-true", "callbacks.checkpoints.every_n_steps=1"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = train(*words, f"hydra.run.dir={whole}")
    assert done.returncode == 0, done.stderr
    assert train(*words, f"hydra.run.dir={broken}", *kill_at(9)).returncode != 0
    resumed = train(f"resume={broken}", "callbacks.fault=null")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(whole, broken)


def test_one_and_two_processes_agree(undisturbed, tmp_path):
    """The global batch, its noise and its times do not depend on the number of processes; dropout does."""
    same = ["net.dropout=0", "trainer.max_steps=8"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert train(*SETTINGS, *same, f"hydra.run.dir={one}").returncode == 0
    done = train(*SETTINGS, "trainer=ddp_cpu", "trainer.precision=32-true", *same, f"hydra.run.dir={two}")
    assert done.returncode == 0, done.stderr
    losses = [
        [(r["step"], r["train/loss"]) for r in read_metrics(run / "metrics.csv") if "train/loss" in r]
        for run in (one, two)
    ]
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-4, atol=1e-5)


def test_power_averages_and_their_snapshots_resume_exactly(tmp_path):
    words = [
        *SETTINGS,
        "ema=power",
        "callbacks.snapshots.count=6",
        "callbacks.checkpoints.every_n_steps=4",
        "callbacks.checkpoints.keep_every_n_steps=6",
    ]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = train(*words, f"hydra.run.dir={whole}")
    assert done.returncode == 0, done.stderr
    assert train(*words, f"hydra.run.dir={broken}", *kill_at(14)).returncode == -9
    resumed = train(f"resume={broken}", "callbacks.fault=null")
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


def test_a_finished_run_can_be_made_longer(undisturbed, tmp_path):
    import shutil

    run = shutil.copytree(undisturbed, tmp_path / "run")
    longer = train(f"resume={run}", "trainer.max_steps=20")
    assert longer.returncode == 0, longer.stderr
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 20
    assert read_metrics(run / "metrics.csv")[-1]["step"] == 20

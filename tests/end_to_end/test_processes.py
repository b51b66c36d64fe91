"""Several processes train as one does, whoever starts them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter, save
from torch.distributed.checkpoint.format_utils import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from src.commands.training_checks import check_sharding
from src.loggers.metrics_csv import read_metrics
from src.runs.sweep import read_jobs
from src.utils import merge_shards
from src.utils.checkpoints import load_checkpoint
from src.utils.sharded import checksums, shard_files, write_checksums
from tests.end_to_end.preparing import build, changed, composed, mistake
from tests.end_to_end.running import SETTINGS, assert_same, assert_same_run, forked, kill_at, started

# Dropout depends on the number of processes; nothing else does.
SAME = [
    *SETTINGS,
    "condition=clusters",
    "condition.num_clusters=10",
    "net.dropout=0",
    "time_sampler=loss_second_moment",
    "time_sampler.bins=4",
    "trainer.max_steps=12",
    "trainer.val_check_interval=6",
    "trainer.log_every_n_steps=1",
    "callbacks.sample_images.every_n_steps=1000",
]
MEASURED = [
    "callbacks=quality",
    "callbacks.quality.n=81",
    "callbacks.quality.every_n_steps=6",
    "callbacks.quality.steps=2",
]
TWO = [*SAME, *MEASURED, "trainer=ddp_cpu", "trainer.precision=32-true"]
SHARDED = ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy.min_parameters=5000"]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """The same run by one process and by two, as the jobs of a sweep."""
    folder = tmp_path_factory.mktemp("sweep")
    words = [word for word in (*SAME, *MEASURED) if word != "trainer=cpu"]
    done = forked("-m", *words, "trainer=cpu,ddp_cpu", f"hydra.sweep.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def one(sweep) -> Path:
    """The run of one process."""
    return sweep / "0"


@pytest.fixture(scope="module")
def two(sweep) -> Path:
    """The run of two processes."""
    return sweep / "1"


def test_jobs_of_several_processes(sweep):
    """Each job of a sweep has its one folder, which one process writes to."""
    assert sorted(p.parent.name for p in sweep.rglob("config.yaml")) == ["0", "1"]
    for job in read_jobs(sweep):
        results = json.loads((sweep / f"{job.number}/run.json").read_text())["results"]
        assert job.state == "done" and job.value == results["best_val_loss"]
    assert (sweep / "comparison/table.csv").is_file()


def logged(run: Path, *keys: str) -> torch.Tensor:
    rows = read_metrics(run / "metrics.csv")
    return torch.tensor([[row["step"], *(row[key] for key in keys)] for row in rows if keys[0] in row])


def assert_agree(a: Path, b: Path, *keys: str, count: int) -> None:
    """What two runs logged is the same, but for the order of sums."""
    assert len(logged(a, *keys)) == count
    torch.testing.assert_close(logged(a, *keys), logged(b, *keys), rtol=2e-4, atol=1e-5)


@pytest.mark.slow
def test_two_processes_resume_exactly(two, tmp_path):
    often = "callbacks.checkpoint.every_n_steps=1"
    assert started(*TWO, often, f"hydra.run.dir={tmp_path}", *kill_at(9)).returncode != 0
    resumed = started(f"resume={tmp_path}", "callbacks.fault=null", "callbacks.checkpoint.every_n_steps=500")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(two, tmp_path)


def test_one_and_two_processes_agree(one, two):
    """Over nearly two epochs: the batches, their noise, their times, which learn from losses; and what is measured."""
    assert_agree(one, two, "train/loss", count=12)
    assert_agree(one, two, "val/loss_raw", "val/loss_ema", count=2)
    assert len(logged(one, "quality/frechet_distance")) == 2
    torch.testing.assert_close(
        logged(one, "quality/frechet_distance"), logged(two, "quality/frechet_distance"), rtol=1e-3, atol=1e-3
    )


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> Path:
    """The same run by two processes that share out the weights."""
    folder = tmp_path_factory.mktemp("split") / "run"
    done = started(*SAME, *SHARDED, "trainer.precision=32-true", f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_split_weights_learn_the_same(one, split, tmp_path, capsys):
    """Under fsdp, also the average; and one process goes on from what two have written."""
    run = Path(shutil.copytree(split, tmp_path / "run"))
    assert_agree(one, run, "train/loss", count=12)
    assert_agree(one, run, "val/loss_raw", "val/loss_ema", count=2)
    assert (run / "checkpoints/last.ckpt/__1_0.distcp").is_file() and not list(run.glob("samples/*"))
    ours, theirs = (load_checkpoint(r / "checkpoints/last.ckpt") for r in (one, run))
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    a, b = (torch.cat([c["state_dict"][k].flatten().float() for k in ours["state_dict"]]) for c in (ours, theirs))
    assert (a - b).norm() < 1e-3 * a.norm()
    whole = Path(shutil.copytree(run, tmp_path / "whole"))
    merge_shards.main(whole / "checkpoints/last.ckpt")
    assert "ckpt=last_whole" in capsys.readouterr().out
    assert_same(torch.load(whole / "checkpoints/last_whole.ckpt", weights_only=True), theirs)
    more = ["trainer.devices=1", "trainer.max_steps=14", "trainer.val_check_interval=2", "callbacks.sample_images.n=0"]
    longer = forked(f"resume={run}", *more)
    assert longer.returncode == 0, longer.stderr
    assert load_checkpoint(run / "checkpoints/last.ckpt")["global_step"] == 14


def lose_a_number(folder: Path) -> None:
    """Write a sharded checkpoint anew, with a weight that is NaN."""
    content: dict[str, Any] = {}
    _load_state_dict(content, FileSystemReader(folder), planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    for name in ("denoiser.net.head.weight", "ema.model.net.head.weight"):
        content["state_dict"][name].flatten()[-1] = torch.nan
    save(content, storage_writer=FileSystemWriter(folder), no_dist=True)
    write_checksums(folder, checksums(folder, shard_files(folder)))


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "__1_0.distcp").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "__1_0.distcp").write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "reason"),
    [(flip_a_bit, "__1_0.distcp is damaged: it differs"), (lose_a_number, "not finite: {}net.head.weight")],
    ids=["flipped", "nan"],
)
def test_damage_to_split_weights_is_one_line(damage, reason, split, tmp_path, command):
    run = Path(shutil.copytree(split, tmp_path / "run"))
    damage(run / "checkpoints/last.ckpt")
    resumed = started(f"resume={run}", "trainer.max_steps=14", "trainer.val_check_interval=2")
    assert resumed.returncode == 1 and "Traceback" not in resumed.stderr, resumed.stderr
    (line,) = [line for line in resumed.stderr.splitlines() if line.startswith("error: ")]
    assert reason.format("denoiser.") in line
    drawn = command("sample", f"run={run}", "ckpt=last", "n=2", f"out={tmp_path / 'out'}")
    assert drawn.code == 1 and drawn.error.count("\n") == 1 and reason.format("") in drawn.error
    begun = forked(*SAME, "trainer=cpu", f"init_from={run}", f"hydra.run.dir={tmp_path / 'new'}")
    assert begun.returncode == 1 and begun.stderr.count("\n") == 1 and reason.format("") in begun.stderr


@pytest.mark.slow
def test_split_weights_go_on_from_a_file(one, tmp_path):
    """Which is read by the same checks as without them."""
    run = Path(shutil.copytree(one, tmp_path / "run"))
    more = [*SHARDED, "callbacks.quality=null", "trainer.max_steps=14", "trainer.val_check_interval=2"]
    assert (done := started(f"resume={run}", *more)).returncode == 0, done.stderr
    assert load_checkpoint(run / "checkpoints/last.ckpt")["global_step"] == 14


@pytest.mark.slow
def test_muon_sees_whole_matrices_where_weights_are_split(tmp_path):
    words = [*SAME, "optimizer=muon", "net.width=16", "trainer.max_steps=10", "trainer.val_check_interval=10"]
    for name, more in {"one": [], "two": SHARDED}.items():
        done = started(*words, *more, "trainer.precision=32-true", f"hydra.run.dir={tmp_path / name}")
        assert done.returncode == 0, done.stderr
    assert_agree(tmp_path / "one", tmp_path / "two", "train/loss", count=10)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["callbacks=quality"], "Quality"),
        (["schedule=learned", "loss=vlb", "loss.steps=null"], "schedule=learned"),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_what_split_weights_cannot_do_is_refused(words, reason):
    cfg = changed(composed("train", "experiment=digits_ddpm", "net.width=8", *words))
    module, callbacks = build(cfg), [instantiate(callback) for callback in cfg.callbacks.values() if callback]
    with mistake("train", reason, "use trainer=ddp"):
        check_sharding(module, callbacks)


def test_split_weights_are_refused_before_the_training(tmp_path):
    done = forked(*SETTINGS, *SHARDED, "ema=power_function", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 1 and "ema=power_function" in done.stderr and "use trainer=ddp" in done.stderr
    assert not (tmp_path / "run").exists()


# ---- launchers ----

SHORT = [
    *SETTINGS,
    "trainer=ddp_cpu",
    "trainer.precision=32-true",
    "trainer.max_steps=4",
    "trainer.val_check_interval=2",
    "callbacks.sample_images.n=0",
]


def check_one_folder(outputs: Path) -> None:
    """All processes have written one run, and nothing beside it."""
    (config,) = outputs.rglob("config.yaml")
    assert [p.name for p in (outputs / "train/digits_ddpm").iterdir()] == [config.parent.name]
    assert load_checkpoint(config.parent / "checkpoints/last.ckpt")["global_step"] == 4
    assert len(logged(config.parent, "val/loss_ema")) == 2


@pytest.mark.slow
def test_torchrun(tmp_path):
    port = 29000 + os.getpid() % 1000
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    words = [*torchrun, "-m", "src.train", *SHORT, f"paths.outputs={tmp_path}", "auto_resume=true"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Done") == 1
    check_one_folder(tmp_path)


@pytest.mark.slow
def test_srun(tmp_path):
    """Two tasks with the variables that SLURM gives them."""
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "127.0.0.1"}
    job |= {"SLURM_NTASKS": "2", "SLURM_NNODES": "1", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0"}
    words = [sys.executable, "-m", "src.train", *SHORT, "trainer.devices=2", f"paths.outputs={tmp_path}"]
    tasks = [
        subprocess.Popen(
            words,
            env=os.environ | job | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    for task in tasks:
        _, error = task.communicate(timeout=300)
        assert task.returncode == 0, error
    check_one_folder(tmp_path)

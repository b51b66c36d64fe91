"""`python -m src.train`: every experiment runs, and leaves what is promised."""

import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.loggers.metrics_csv import read_metrics
from tests.end_to_end.preparing import changed, composed, prepare_training
from tests.end_to_end.running import POINTS, forked

EXPERIMENTS = sorted(p.stem for p in Path("conf/experiment").glob("*.yaml"))
# Each of their parts is in another experiment, or other tests train them all the time.
ELSEWHERE = (
    *(f"mnist_{name}" for name in ("conditional", "ddpm", "edm", "flow", "iddpm", "ncsn", "ve_sde", "vp_sde")),
    *(f"mnist_{name}" for name in ("ect", "flow_map")),
    *(f"mixture_{name}" for name in ("edm", "flow", "iddpm", "mean_flow", "ncsn", "sub_vp_sde", "ve_sde", "vp_sde")),
    "mnist_denoiser",  # which mnist_finetune begins with
    "mnist_angle",  # whose data are tested in tests/data, and whose condition sine_vector has
    "cifar_conditional",  # tests/end_to_end/test_tasks.py trains on a folder of labeled images
    "digits_ddpm",
    "folder_ddpm",
    "sine_denoiser",
    "sine_denoiser_random",
)
# Experiments that begin with a run of another one, and the key that names it.
AFTER = {
    "mnist_finetune": ("mnist_denoiser", "init_from"),
    "mnist_distill": ("mnist_ddpm", "teacher"),
    "mnist_ect": ("mnist_ddpm", "init_from"),
}


@pytest.fixture
def data_for(tmp_path, tiny_mnist, tiny_images):
    """The words that give an experiment its data."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(50, 9, (60, 2, 30)))
    return lambda name: (
        [f"data.root={tiny_mnist}", "data.sha256=null", "data.offline=error", "data.val_size=16"]
        if "mnist" in name
        else [f"data.root={tiny_images}"]
        if "folder" in name
        else [f"data.root={tmp_path / 'x.npy'}"]
        if "array" in name
        else [f"data.root={tiny_images}", "data.num_classes=2", "data.size=[16,16]"]
        if "cifar" in name
        else []
    )


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in ELSEWHERE else n for n in EXPERIMENTS]
)
def test_every_experiment_runs_two_steps(command, tiny, data_for, tmp_path, name):
    dense = name.startswith(("mixture", "sine_denoiser", "sine_vlb"))  # whose net has no width
    drawn = name in ("sine_ddpm", "mnist_conditional", "mixture_ddpm", "volume_ddpm", "cifar_conditional")  # each kind
    left_out = ("net.",) * dense + ("callbacks.sample_images",) * drawn
    small = [word for word in tiny if not word.startswith(left_out)]
    small += [*data_for(name), "data.batch_size=16", "sampler.steps=2" if drawn else "logger=csv"]
    if name in AFTER:
        before, key = AFTER[name]
        done = command("train", f"experiment={before}", *small, f"hydra.run.dir={tmp_path / 'first'}")
        assert done.code == 0, done.error
        small.append(f"{key}={tmp_path / 'first'}")
    done = command("train", f"experiment={name}", *small, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.code == 0, done.error
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
    assert not drawn or list(tmp_path.glob("run/samples/step_000002_ema.png"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """A small but whole run of the command, and what it printed."""
    outputs = tmp_path_factory.mktemp("outputs")
    words = [
        "experiment=digits_ddpm",
        f"paths.outputs={outputs}",
        "trainer=cpu",
        "net.width=8",
        "trainer.max_steps=4",
        "trainer.val_check_interval=2",
        "trainer.log_every_n_steps=1",
        "callbacks.sample_images.every_n_steps=4",
        "callbacks.sample_images.n=4",
        "sampler.steps=3",
    ]
    done = forked(*words)
    assert done.returncode == 0, done.stderr
    return (outputs / "latest").resolve(), done.stderr


def test_the_run_folder_holds_what_is_promised(finished):
    run, _ = finished
    assert run.parent.name == "digits_ddpm"
    assert run.parent.parent.name == "train"
    names = {str(p.relative_to(run)) for p in run.rglob("*")}
    assert {
        "config.yaml",
        "run.json",
        "train.log",
        "metrics.csv",
        "loss_curves.png",
        "schedule.png",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "samples/step_000004_ema.png",
        "samples/step_000004_raw.png",
        "samples/step_000004_denoised.png",
    } <= names
    assert not [n for n in names if "=" in n]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert "${" not in (run / "config.yaml").read_text()
    assert config["net"]["width"] == 8
    record = json.loads((run / "run.json").read_text())
    assert record["results"]["steps"] == 4 and record["finished"] is True and record["failed"] is None
    assert record["name"] == "digits_ddpm" and "scikit-learn" in record["data"] and record["kind"] == "images"
    assert record["data_identity"]["training samples"] > 1000 and record["parameters"] > 100
    for picture in run.rglob("*.png"):
        assert min(Image.open(picture).size) > 100, picture


def test_the_summary_and_the_report_say_what_is_needed(finished):
    run, out = finished
    for text in ("scikit-learn", "1 x 8 x 8", "parameters", "CosineSchedule(steps=1000", "cpu", "tensorboard --logdir"):
        assert text in out, text
    assert f"python -m src.sample run={run}" in out
    assert f"python -m src.train resume={run}" in out
    assert "best" in out
    assert "images/s" in out


def test_tensorboard_shows_what_is_promised(finished):
    run, _ = finished
    events = EventAccumulator(str(run), size_guidance={"images": 0, "scalars": 0}).Reload()
    scalars = set(events.Tags()["scalars"])
    assert {
        "train/loss",
        "train/lr",
        "train/grad_norm",
        "train/samples_per_second",
        "val/loss_raw",
        "val/loss_ema",
        "final/best_val_loss",
        "final/steps",
    } <= scalars
    assert any(s.startswith("train/log_snr/") for s in scalars)
    assert any(s.startswith("val_ema/log_snr/") for s in scalars)
    assert {"samples/raw", "samples/ema", "denoised", "schedule", "loss_curves"} <= set(events.Tags()["images"])
    assert any("config" in tag for tag in events.Tags()["tensors"])
    rows = [r for r in read_metrics(run / "metrics.csv") if "val/loss_ema" in r]
    scalar = {e.step: e.value for e in events.Scalars("val/loss_ema")}
    assert [r["step"] for r in rows] == sorted(scalar) == [2, 4]
    assert all(abs(scalar[r["step"]] - r["val/loss_ema"]) < 1e-6 for r in rows)


def test_a_finished_run_is_made_longer_or_left_alone(command, finished):
    run, _ = finished
    done = command("train", f"resume={run}")
    assert done.code == 1 and "this run is finished, at step 4; make it longer with trainer.max_steps=8" in done.error


@pytest.mark.slow
def test_a_run_repeats_bit_for_bit(command, tiny, tmp_path):
    states = []
    for name in ("a", "b"):
        done = command("train", "experiment=digits_ddpm", *tiny, f"hydra.run.dir={tmp_path / name}")
        assert done.code == 0, done.error
        states.append(torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"])
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    done = command("train", "experiment=digits_ddpm", *tiny, "seed=1", f"hydra.run.dir={tmp_path / 'c'}")
    other = torch.load(tmp_path / "c/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert not torch.equal(states[0]["denoiser.net.stem.weight"], other["denoiser.net.stem.weight"])


def test_a_new_run_can_begin_with_the_weights_of_another(command, tiny, finished, tmp_path):
    run, _ = finished
    words = [f"init_from={run}", "optimizer.lr=1e-30", f"hydra.run.dir={tmp_path / 'new'}"]
    done = command("train", "experiment=digits_ddpm", *tiny, *words)
    assert done.code == 0, done.error
    old, new = (torch.load(r / "checkpoints/last.ckpt", weights_only=True) for r in (run, tmp_path / "new"))
    assert new["global_step"] == 2
    torch.testing.assert_close(
        new["state_dict"]["denoiser.net.stem.weight"], old["state_dict"]["denoiser.net.stem.weight"]
    )


def step_of(run: Path) -> int:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"]


def test_epochs_on_the_command_line_replace_the_steps_of_the_experiment(command, tmp_path):
    words = ["trainer.max_epochs=2", "data.batch_size=400", f"hydra.run.dir={tmp_path / 'run'}"]
    done = command("train", *POINTS, *words)
    assert done.code == 0, done.error
    assert step_of(tmp_path / "run") == 2 * (900 // 400)


def test_max_time_ends_a_run_with_a_checkpoint(command, tmp_path, monkeypatch):
    clock = SimpleNamespace(monotonic=itertools.count().__next__)  # a second each time that somebody looks
    monkeypatch.setattr("pytorch_lightning.callbacks.timer.time", clock)
    done = command("train", *POINTS, "trainer.max_time=00:00:00:06", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.code == 0, done.error
    assert "Out of time" in done.out
    assert 0 < step_of(tmp_path / "run") <= 6


def test_early_stopping_on_request(command, tmp_path):
    words = ["callbacks=early_stopping", "optimizer.lr=1e-30", "callbacks.early_stopping.patience=1"]
    done = command("train", *POINTS, *words, "trainer.val_check_interval=2", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.code == 0, done.error
    assert step_of(tmp_path / "run") == 4


@pytest.mark.slow
def test_overfitting_one_batch_learns_it(command, tmp_path):
    words = [
        "experiment=digits_ddpm",
        "debug=overfit",
        "trainer=cpu",
        "net.width=16",
        "data.batch_size=8",
        "callbacks.sample_images.n=1",
        "sampler.steps=1",
        "trainer.max_steps=200",
        f"hydra.run.dir={tmp_path / 'run'}",
    ]
    done = command("train", *words)
    assert done.code == 0, done.error
    losses = [r["train/loss"] for r in read_metrics(tmp_path / "run/metrics.csv") if "train/loss" in r]
    assert losses[-1] < 0.45 * losses[0]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_resume(tmp_path, number, code):
    words = [*POINTS, "trainer.log_every_n_steps=1", "trainer.max_steps=100000", f"hydra.run.dir={tmp_path / 'run'}"]
    stopped = forked(*words, kill_when=(tmp_path / "run/metrics.csv").exists, number=number)
    error = stopped.stderr
    assert stopped.returncode == code, error
    assert f"python -m src.train resume={tmp_path / 'run'}" in error
    assert "Traceback" not in error
    assert f"at step {step_of(tmp_path / 'run')}" in error


def test_help_and_config_are_quick_and_whole():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "src.train", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    for word in ("experiment:", "mnist_ddpm", "schedule: additive, constant, cosine", "resume=RUN", "Examples"):
        assert word in done.stdout
    # What makes it quick is what it does not import.
    assert not {"torch", "pytorch_lightning", "numpy"} & {
        line.split("|")[-1].strip() for line in done.stderr.splitlines()
    }
    config = subprocess.run([sys.executable, "-m", "src.train", "--cfg", "job"], capture_output=True, text=True)
    assert config.returncode == 0
    assert yaml.safe_load(config.stdout)["trainer"]["precision"] == "auto"


def test_a_warning_about_the_data_is_kept_for_comparisons(tmp_path):
    cfg = changed(composed("train", "experiment=sine_ddpm", "trainer=cpu"), "data.amplitude=[2,3]", "net.width=8")
    prepare_training(cfg, tmp_path / "run").announce()
    assert "beyond the [-1, 1]" in json.loads((tmp_path / "run/run.json").read_text())["data_warning"]

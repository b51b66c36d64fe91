"""What a user gets wrong: one clear line, a non-zero exit code, and nothing lost."""

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SMALL = ["experiment=digits_ddpm", "trainer=cpu", "debug=two_steps", "net.width=8"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A small finished run."""
    folder = tmp_path_factory.mktemp("run")
    done = subprocess.run([sys.executable, "-m", "src.train", *SMALL, f"hydra.run.dir={folder}"], capture_output=True)
    assert done.returncode == 0, done.stderr
    return folder


def assert_one_line(outcome, *parts: str, code: int = 1) -> None:
    assert outcome.code == code, outcome.error
    lines = [line for line in outcome.error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, outcome.error
    assert "Traceback" not in outcome.error
    for part in parts:
        assert part in lines[0], lines[0]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["experiment=mnist_dpm"], ["experiment=mnist_dpm", "Did you mean mnist_ddpm?"]),
        (["schedul=linear"], ["schedul", "Did you mean schedule?"]),
        (["trainer.max_step=3"], ["Did you mean trainer.max_steps?"]),
        (["max_steps=3"], ["Did you mean trainer.max_steps?"]),
        (["net.widht=3"], ["Did you mean net.width?"]),
        (["trainer.max_steps=many"], ["trainer.max_steps", "'many'", "int"]),
        (["optimizer.lr=fast"], ["optimizer.lr", "'fast'"]),
        (["net.width=1.5"], ["net.width", "1.5", "int"]),
        (["ema.decay=2"], ["ema.decay", "2"]),
        (["ema=half_life", "ema.half_life=-1"], ["ema.half_life", "-1"]),
        (["ema=power", "ema.sigma_rel=[0.05,0.3]"], ["0.3", "between 0 and 0.289"]),
        (["ema=power", "ema.sigma_rel=0.05"], ["ema.sigma_rel", "0.05"]),
        (["schedule.steps=5", "schedule=linear"], ["schedule", "too few"]),
        (["sampler.eta=3"], ["sampler", "eta"]),
        (["experiment=folder_ddpm"], ["data.root=FOLDER"]),
        (["experiment=folder_ddpm", "data.root=nowhere"], ["nowhere", "data.root"]),
        (["experiment=mnist_ddpm", "data.root=nowhere", "data.offline=error", "data.mirrors=[]"], ["data.root"]),
        (["experiment=digits_ddpm", "net.mults=[1,2,2,2,2]"], ["net", "multiple of 16"]),
        (["experiment=digits_ddpm", "data.batch_size=5000"], ["data.batch_size=5000", "1438"]),
        (["experiment=digits_ddpm", "trainer.max_steps=-1", "trainer.max_time=00:00:00:05"], ["lr_schedule=constant"]),
        (["experiment=digits_ddpm", "trainer=gpu"], ["trainer", "trainer=cpu"]),
        (["experiment=digits_ddpm", "trainer=ddp_cpu", "data.batch_size=65"], ["data.batch_size=65", "2 processes"]),
        (["resume=nowhere"], ["nowhere", "run folder"]),
        (["resume=src"], ["src", "config.yaml"]),
        (["init_from=nowhere"], ["nowhere", "run folder"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_train_gets_one_line(command, tmp_path, words, parts):
    if torch.cuda.is_available() and "trainer=gpu" in words:
        pytest.skip("there is a GPU")
    folder = tmp_path / "run"
    resumes = any(w.startswith("resume") for w in words)
    outcome = command("train", *words, *([] if resumes else [f"hydra.run.dir={folder}"]))
    assert_one_line(outcome, *parts)
    assert not folder.exists(), "a run that never began leaves no folder"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["run=RUN"]),
        (["run=nowhere"], ["nowhere"]),
        (["run=RUN", "label=3"], ["label=3", "without labels"]),
        (["run=RUN", "n=0"], ["n"]),
        (["run=RUN", "smapler.steps=3"], ["Did you mean sampler.steps?"]),
        (["run=RUN", "sampler.steps=0"], ["sampler.steps"]),
        (["run=RUN", "ckpt=worst"], ["worst.ckpt", "best, last"]),
        (["run=RUN", "device=tpu9"], ["device=tpu9", "device=cpu"]),
        (["run=RUN", "weights=some"], ["weights=some", "ema"]),
        (["run=RUN", "weights=true"], ["weights=True", "relative width such as 0.07"]),
        (["run=RUN", "weights=0.07"], ["no snapshots", "ema=power"]),
        (["run=RUN", "weights=0.07", "ckpt=last"], ["weights=0.07", "leave ckpt= out"]),
        (["run=RUN", "precision=half"], ["precision=half"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_sample_gets_one_line(command, run, words, parts):
    assert_one_line(command("sample", *[w.replace("RUN", str(run)) for w in words]), *parts)


@pytest.mark.parametrize("label", ["10", "-1", "three", "1.5", "[1,12]"])
def test_a_label_out_of_range(command, tmp_path, label):
    words = [*SMALL, "net.num_classes=10", "module.conditional=true", f"hydra.run.dir={tmp_path / 'run'}"]
    assert command("train", *words).code == 0
    assert_one_line(command("sample", f"run={tmp_path / 'run'}", f"label={label}"), "label=", "0 to 9")


def test_a_truncated_checkpoint(command, run, tmp_path):
    broken = shutil.copytree(run, tmp_path / "run")
    for name in ("last.ckpt", "best.ckpt"):
        path = broken / "checkpoints" / name
        path.write_bytes(path.read_bytes()[:5000])
    assert_one_line(command("sample", f"run={broken}"), "best.ckpt", "truncated")
    assert_one_line(command("train", f"resume={broken}"), "last.ckpt", "truncated")


def test_a_run_without_a_checkpoint(command, run, tmp_path):
    bare = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("*.ckpt"))
    assert_one_line(command("sample", f"run={bare}"), "no checkpoint best.ckpt")
    assert_one_line(command("train", f"resume={bare}"), "no checkpoint last.ckpt")


def test_a_checkpoint_of_another_architecture(command, run, tmp_path):
    words = [*SMALL, "net.width=16", f"init_from={run}", f"hydra.run.dir={tmp_path / 'run'}"]
    assert_one_line(command("train", *words), "another architecture", "last.ckpt")
    assert_one_line(command("train", f"resume={run}", "net.width=16"), "another architecture")


def test_an_existing_run_is_not_overwritten(command, run):
    before = (run / "checkpoints/last.ckpt").read_bytes()
    assert_one_line(command("train", *SMALL, f"hydra.run.dir={run}"), "already holds a run", f"resume={run}")
    assert (run / "checkpoints/last.ckpt").read_bytes() == before


def test_another_experiment_cannot_be_resumed_into_a_run(command, run):
    assert_one_line(command("train", f"resume={run}", "experiment=sine_ddpm"), "experiment=")


def test_another_average_cannot_be_resumed_into_a_run(command, run):
    assert_one_line(command("train", f"resume={run}", "ema=power"), "ema= cannot be given with resume=")


def test_a_loss_that_is_not_finite(command, tmp_path):
    words = [
        "experiment=digits_ddpm",
        "trainer=cpu",
        "net.width=8",
        "callbacks.checkpoints.every_n_steps=2",
        "+callbacks.fault._target_=tests.faults.PoisonAt",
        "+callbacks.fault.step=5",
        f"hydra.run.dir={tmp_path}",
    ]
    outcome = command("train", *words)
    assert_one_line(outcome, "not finite at step 6", "learning rate", "gradient norm nan", "t = ")
    state = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] == 4
    assert all(v.isfinite().all() for v in state["state_dict"].values())


def test_a_full_disk_keeps_the_previous_checkpoint(run, tmp_path):
    """The limit on the size of a file stands in for the disk: larger writes fail as they do on a full one."""
    copy = shutil.copytree(run, tmp_path / "run")
    before = (copy / "checkpoints/last.ckpt").read_bytes()
    limit = len(before) // 2

    def limited() -> None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    words = [f"resume={copy}", "trainer.max_steps=4", "logger=csv"]
    done = subprocess.run(
        [sys.executable, "-m", "src.train", *words], capture_output=True, text=True, preexec_fn=limited
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "could not be written" in line
    assert "is kept" in line
    assert (copy / "checkpoints/last.ckpt").read_bytes() == before
    assert not list((copy / "checkpoints").glob(".*"))

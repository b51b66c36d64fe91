"""What a user gets wrong: one clear line, a non-zero exit code, and nothing lost."""

import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from src.commands.sampling_setup import labels
from tests.end_to_end.preparing import build, changed, composed, mistake, prepare_sampling
from tests.end_to_end.running import forked

SMALL = ["experiment=digits_ddpm", "trainer=cpu", "debug=two_steps", "net.width=8", "callbacks.sample_images=null"]


@pytest.fixture(scope="module")
def run(make_run, tmp_path_factory) -> Path:
    """A small finished run."""
    return make_run(tmp_path_factory.mktemp("runs") / "run", *SMALL, "logger=csv")


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
        # What a command line says; tests/commands/test_cli.py has more of it.
        (["experiment=mnist_dpm"], ["experiment=mnist_dpm", "Did you mean mnist_ddpm?"]),
        (["-m", "schedule=linear,cosin"], ["schedule=cosin", "Did you mean cosine?"]),
        (["paths.run=/somewhere"], ["paths.run=", "hydra.run.dir=FOLDER"]),
        (
            ["callbacks.sample_images=null", "callbacks.sample_images.n=3"],
            ["callbacks.sample_images.n", "Another override removes callbacks.sample_images"],
        ),
        # Values and parts; those of the next test come the same way.
        (["net.width=1.5"], ["net.width", "1.5", "int"]),
        (["experiment=folder_ddpm"], ["data.root=FOLDER"]),
        (["parameterization=eps", "schedule=flow"], ["parameterization=eps", "at t = 1", "use parameterization=v"]),
        # What only the data, the trainer or another run show.
        (["experiment=folder_ddpm", "data.root=nowhere"], ["nowhere", "data.root"]),
        (["experiment=mnist_ddpm", "data.root=nowhere", "data.offline=error", "data.mirrors=[]"], ["data.root"]),
        (["experiment=digits_ddpm", "data.batch_size=5000"], ["data.batch_size must be at most 1438", "got 5000"]),
        (["experiment=digits_ddpm", "trainer.max_steps=-1", "trainer.max_time=00:00:00:05"], ["lr_schedule=constant"]),
        (["experiment=digits_ddpm", "trainer=gpu"], ["trainer", "trainer=cpu"]),
        (
            ["experiment=digits_ddpm", "trainer=ddp_cpu", "data.batch_size=65"],
            ["data.batch_size", "2 processes, got 65"],
        ),
        (["resume=nowhere"], ["nowhere", "run folder"]),
        (["resume=src"], ["src", "config.yaml"]),
        (["init_from=nowhere"], ["nowhere", "run folder"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_train_gets_one_line(command, tmp_path, words, parts):
    """Before the training begins; and the run that never began leaves no folder."""
    if torch.cuda.is_available() and "trainer=gpu" in words:
        pytest.skip("there is a GPU")
    folder = tmp_path / "run"
    resumes = any(w.startswith("resume") for w in words)
    outcome = command("train", *words, *([] if resumes else [f"hydra.run.dir={folder}"]))
    assert_one_line(outcome, *parts)
    assert not folder.exists()


BARE = "net._target_=tests.helpers.custom_net.Bare"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        # Parts that do not go together.
        (["parameterization=score", "schedule=laplace"], ["parameterization=score", "use parameterization=v"]),
        (
            ["parameterization=eps", "schedule=linear", "schedule.zero_terminal_snr=true"],
            ["parameterization=eps", "use parameterization=v"],
        ),
        (["sampler=euler_maruyama", "schedule=flow"], ["sampler", "euler_maruyama", "use sampler=ddpm"]),
        (
            ["loss=mse", "variance=learned_range"],
            ["does not train the variance", "loss=hybrid", "variance=fixed_small"],
        ),
        (["loss=vlb", "loss.steps=null", "variance=learned"], ["does not train the variance", "loss.steps"]),
        (["loss=hybrid", "variance=fixed_small"], ["loss=hybrid", "use variance=learned_range"]),
        (["schedule=learned", "loss=mse"], ["does not train the schedule", "loss=vlb loss.steps=null"]),
        (["schedule=learned", "loss=vlb"], ["does not train the schedule", "loss=vlb loss.steps=null"]),
        (["data=gaussian_mixture", "net=mlp", "loss=perceptual"], ["loss.features", "one to three axes"]),
        (["self_conditioning_prob=0.5", BARE], ["net", "`in_channels`", "self_conditioning_prob", "use net=unet"]),
        (["loss=hybrid", "variance=learned", BARE], ["net", "`out_channels`", "variance", "use net=unet"]),
        (
            ["time_grid=trailing", "sampler.steps=1500"],
            ["sampler.steps <= schedule.steps", "got 1500 and 1000", "use time_grid=uniform"],
        ),
        (["time_grid=trailing", "schedule.steps=20", "sampler.steps=30"], ["got 30 and 20", "use time_grid=uniform"]),
        # What is left to the user.
        (["loss=perceptual", "loss.features._target_=???"], ["loss.features._target_=VALUE must be given"]),
        (["loss=perceptual", "~loss.features"], ["loss: ", "Perceptual also needs features"]),
        (["guidance=autoguidance"], ["guidance.guide_model.ckpt=VALUE must be given"]),
        (["guidance=autoguidance", "guidance.guide_model.ckpt=best"], ["guidance.guide_model.run=RUN must be given"]),
        (["guidance=classifier"], ["guidance.log_prob._target_=VALUE must be given"]),
        # Values that there are not.
        (["trainer.max_steps=many"], ["trainer.max_steps", "'many'", "int"]),
        (["optimizer.lr=fast"], ["optimizer.lr", "'fast'"]),
        (["ema.decay=2"], ["ema.decay", "2"]),
        (["ema=half_life", "ema.half_life=-1"], ["ema.half_life", "-1"]),
        (["ema=power_function", "ema.sigma_rel=[0.05,0.3]"], ["0.3", "between 0 and 0.289"]),
        (["ema=power_function", "ema.sigma_rel=0.05"], ["ema.sigma_rel", "0.05"]),
        (["schedule=linear", "schedule.steps=5"], ["schedule", "too few"]),
        (["sampler.eta=3"], ["sampler", "eta"]),
        (["net.channel_mults=[1,2,2,2,2]"], ["net", "multiple of 16"]),
        (["sampler.steps=0"], ["sampler.steps must be >= 1, got 0"]),
        (["sampler=unipc", "sampler.order=7"], ["sampler.order must be in [1, 3], got 7"]),
        (["time_grid=karras", "time_grid.sigma_min=0"], ["time_grid.sigma_min must be > 0, got 0"]),
        (["clip.bound=-1"], ["clip.bound must be > 0, got -1"]),
        (["self_conditioning_prob=2"], ["self_conditioning_prob must be in [0, 1), got 2"]),
        (["self_conditioning_prob=yes"], ["self_conditioning_prob must be of type float, got 'yes'"]),
        (["weighting=edm", "weighting.sigma_data=0"], ["weighting.sigma_data must be > 0, got 0"]),
        (["weighting=min_snr", "weighting.gamma=-1"], ["weighting.gamma must be >= 0, got -1"]),
        (
            ["parameterization=posterior_mean", "parameterization.steps=0"],
            ["parameterization.steps must be >= 1, got 0"],
        ),
        (["guidance=interval", "guidance.sigma_min=9"], ["0 <= sigma_min < sigma_max", "got 9 and 5"]),
        (["guidance=rescale", "guidance.rescale=3"], ["guidance.rescale must be in [0, 1], got 3"]),
        (["time_sampler.t_min=0"], ["time_sampler.t_min must be in (0, 1), got 0"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_the_parts_is_found_before_the_training(words, parts):
    """Though the sampler, say, is first needed at its end."""
    cfg = changed(composed("train", "experiment=digits_ddpm", "net.width=8"), *words)
    with mistake("train", *parts):
        build(cfg)


def test_without_a_mistake_the_parts_are_built():
    """What the test above changes is right before it is changed."""
    assert build(changed(composed("train", "experiment=digits_ddpm", "net.width=8"))).denoiser is not None


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["run=RUN"]),
        (["run=nowhere"], ["nowhere"]),
        (["run=RUN", "sampler.steps=0"], ["sampler.steps"]),
        (["guidance=autoguidance", "guidance.guide_model.ckpt=best"], ["run=RUN"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_sample_gets_one_line(command, run, words, parts):
    assert_one_line(command("sample", *[w.replace("RUN", str(run)) for w in words]), *parts)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["label=3"], ["label=3", "condition=labels"]),
        (["n=0"], ["n must be >= 1, got 0"]),
        (["n=2.5"], ["n must be of type int, got 2.5"]),
        (["ckpt=worst"], ["worst.ckpt", "best, last"]),
        (["device=tpu9"], ["device=tpu9", "device=cpu"]),
        (["weights=some"], ["weights must be ema", "got some"]),
        (["weights=true"], ["weights must be of type str or of type float, got true"]),
        (["weights=0.07"], ["no snapshots", "ema=power_function"]),
        (["weights=0.07", "ckpt=last"], ["weights=0.07", "leave ckpt= out"]),
        (["precision=half"], ["precision must be one of", "got 'half'"]),
        (["sampler=unipc", "sampler.order=7"], ["sampler.order must be in [1, 3], got 7"]),
        (["time_grid=trailing", "sampler.steps=1500"], ["got 1500 and 1000", "use time_grid=uniform"]),
        (
            ["time_grid=align_your_steps", "time_grid.sigmas=[1,2]"],
            ["time_grid.sigmas", "decreasing", "[1, 2]"],
        ),
        (["variance=learned_range"], ["LearnedRangeVariance", "variance=fixed_small"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_sample_is_found_before_the_sampling(run, words, parts):
    with mistake("sample", *parts):
        prepare_sampling(run, *words)


def test_a_mistake_in_each_job_of_a_sweep(command, run, tmp_path):
    done = command("sample", f"run={run}", "-m", "sampler.stepz=3,4", f"paths.outputs={tmp_path}")
    assert done.code == 1 and not done.error and "0 of 2 jobs done" in done.out
    assert done.out.count("failed: sampler.stepz") == 2 and done.out.count("Did you mean steps?") == 4


@pytest.mark.parametrize("label", [10, -1, "three", 1.5, [1, 12], [], True], ids=str)
def test_a_label_out_of_range(label):
    chosen = OmegaConf.create({"label": label}).label
    with mistake("sample", "label must", "0 to 9"):
        labels(chosen, 4, num_classes=10)


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
    assert_one_line(command("train", f"resume={run}", "ema=power_function"), "ema= cannot be given with resume=")


def test_a_loss_that_is_not_finite(command, tmp_path):
    words = [
        "experiment=digits_ddpm",
        "trainer=cpu",
        "net.width=8",
        "callbacks.sample_images=null",
        "callbacks.checkpoint.every_n_steps=2",
        "+callbacks.fault._target_=tests.helpers.faults.PoisonAt",
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

    def limit_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = forked(f"resume={copy}", "trainer.max_steps=4", first=limit_files)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "could not be written" in line
    assert "is kept" in line
    assert (copy / "checkpoints/last.ckpt").read_bytes() == before
    assert not list((copy / "checkpoints").glob(".*"))

"""Guidance from the command line: with and without the label, by an earlier checkpoint, and by a classifier."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from src.commands.main import run_command
from src.commands.overrides import training_overrides
from src.diffusion.beta_schedules import CosineSchedule
from src.samplers.time_grids import uniform_time_grid
from src.train import train

SMALL = ["experiment=digits_ddpm", "trainer=cpu", "net.width=8", "trainer.max_steps=6", "callbacks.sample_images=null"]
KEPT = ["optimizer.lr=0.05", "callbacks.checkpoint.keep_every_n_steps=2"]
CLASS, FUNCTION = "tests.helpers.classifier.Brightness", "tests.helpers.classifier.brightness"
BY_CLASS = [f"guidance.log_prob._target_={CLASS}"]


def trained(folder: Path, *words: str) -> Path:
    """The folder of a small run with checkpoints that were kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["src/train.py", *SMALL, *KEPT, f"hydra.run.dir={folder}", *words])
        run_command(train, "train", training_overrides)
    return folder


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory) -> Path:
    """A run without labels, of data that has them."""
    return trained(tmp_path_factory.mktemp("runs") / "unconditional")


@pytest.fixture(scope="module")
def conditional(tmp_path_factory) -> Path:
    """A run with labels."""
    return trained(tmp_path_factory.mktemp("runs") / "conditional", "condition=labels")


@pytest.fixture
def draw(command, tmp_path):
    """`draw(run, *words)` samples from the last raw weights and gives what samples.npz holds."""

    def draw(run: Path, *words: str) -> dict[str, np.ndarray]:
        own = ["sampler=ddim", "sampler.steps=4", "ckpt=last", "weights=raw", "clip=none", "precision=32"]
        done = command("sample", f"run={run}", f"out={tmp_path}", *own, *words)
        assert done.code == 0, done.error
        with np.load(tmp_path / "samples.npz") as arrays:
            assert f"{arrays['nfe']:g} evaluations each" in done.out
            return dict(arrays)

    return draw


def apart(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """The largest difference between the samples."""
    return np.abs(a["x"] - b["x"]).max()


def test_without_the_label(conditional, draw):
    """Guidance doubles the evaluations of the steps in which it acts, and of these alone."""
    few = ("n=4", "label=[3,7]")
    plain, guided, contrast = (
        draw(conditional, *few, f"guidance={words}", *more)
        for words, *more in (["none"], ["cfg", "guidance.scale=3"], ["rescale", "guidance.scale=3"])
    )
    assert plain["label"].tolist() == [3, 7, 3, 7]
    assert plain["nfe"] == 4 and guided["nfe"] == contrast["nfe"] == 8
    assert min(apart(plain, guided), apart(plain, contrast), apart(guided, contrast)) > 1e-3

    ratios = torch.exp(-CosineSchedule().log_snr(uniform_time_grid(CosineSchedule(), 4)[:-1]) / 2)
    parts = {}
    for low, high in ((0, "inf"), (0.5, 1.5), (50, 60)):
        words = (
            "guidance=interval",
            "guidance.guidance.scale=3",
            f"guidance.sigma_min={low}",
            f"guidance.sigma_max={high}",
        )
        parts[low] = draw(conditional, *few, *words)
        assert parts[low]["nfe"] == 4 + ((ratios >= low) & (ratios <= float(high))).sum().item()
    assert [part["nfe"] for part in parts.values()] == [8, 5, 4]
    assert apart(parts[0], guided) == apart(parts[50], plain) == 0
    assert min(apart(parts[0.5], guided), apart(parts[0.5], plain)) > 1e-3


@pytest.mark.most(1)
@pytest.mark.parametrize("kind", ["unconditional", "conditional"])
def test_by_an_earlier_checkpoint(kind, draw, request):
    """Of the run itself, unless another one is named."""
    run = request.getfixturevalue(kind)

    def by(ckpt: str, scale: float, *words: str) -> dict[str, np.ndarray]:
        guide = (f"guidance.guide_model.ckpt={ckpt}", "guidance.guide_model.weights=raw", f"guidance.scale={scale}")
        return draw(run, "n=4", "guidance=autoguidance", *guide, *words)

    plain, guided = draw(run, "n=4"), by("step_2", 3)
    assert plain["nfe"] == 4 and guided["nfe"] == 8 and apart(guided, plain) > 1e-3
    assert ("label" in plain) == (kind == "conditional")
    if kind == "unconditional":
        assert apart(by("step_4", 3), guided) > 1e-3
        assert apart(by("step_2", 3, f"guidance.guide_model.run={run}"), guided) == 0


def test_by_a_classifier(unconditional, draw):
    """The label is the classifier's, of a class or a function, though the run itself has none."""
    words = ("n=10", "guidance=classifier")
    plain = draw(unconditional, "n=10")
    by_class = draw(unconditional, *words, *BY_CLASS)
    by_function = draw(
        unconditional, *words, f"guidance.log_prob._target_={FUNCTION}", "guidance.log_prob._partial_=true"
    )
    assert "label" not in plain and by_class["label"].tolist() == list(range(10)), "all labels of the data in turn"
    assert plain["nfe"] == by_class["nfe"] == 4, "the classifier's own evaluations are not the network's"
    assert apart(by_class, by_function) < 1e-5
    brighter = (by_class["x"] - plain["x"]).mean((1, 2, 3))
    assert (brighter[:3] < -0.01).all() and (brighter[-3:] > 0.01).all()
    chosen = draw(unconditional, *words, *BY_CLASS, "label=[9,0]", "n=4")
    assert chosen["label"].tolist() == [9, 0, 9, 0]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["guidance=autoguidance"], ["guidance.guide_model.ckpt=VALUE must be given"]),
        (
            ["guidance=autoguidance", "guidance.guide_model.ckpt=step_3"],
            ["guidance.guide_model", "step_3.ckpt", "step_2, step_4"],
        ),
        (
            ["guidance=autoguidance", "guidance.guide_model.ckpt=best", "guidance.guide_model.run=nowhere"],
            ["run folder nowhere"],
        ),
        (["guidance=classifier", "guidance.log_prob._target_=no.Net"], ["guidance.log_prob._target_", "no.Net"]),
        (
            ["guidance=classifier", f"guidance.log_prob._target_={FUNCTION}"],
            ["guidance.log_prob", "also needs x_t, t"],
        ),
        (["guidance=classifier", *BY_CLASS, "label=10"], ["label must be one of 0 to 9", "got 10"]),
        (["guidance=cfg", "label=3"], ["label=3", "condition=labels"]),
        (["guidance=cfg"], ["CFG", "this run has none", "guidance=none"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(command, unconditional, words, parts):
    done = command("sample", f"run={unconditional}", "n=2", *words)
    lines = [line for line in done.error.splitlines() if line.startswith("error: ")]
    assert done.code == 1 and len(lines) == 1 and "Traceback" not in done.error, done.error
    assert all(part in lines[0] for part in parts), lines[0]

"""Run the commands as a user does, but in this process, which has torch and Lightning loaded already."""

import importlib
import os
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from matplotlib.figure import Figure

from src.commands.main import run_command
from src.commands.overrides import retraining_overrides, sampling_overrides, training_overrides
from src.train import train

# What makes the words that Hydra sees, of those on the command line of a command.
COMPLETE = {
    "train": training_overrides,
    "sample": sampling_overrides,
    "evaluate": sampling_overrides,
    "export": sampling_overrides,
    "serve": sampling_overrides,
    "monitor": list,
    "retrain": retraining_overrides,
    "compare": list,
}


class Outcome(NamedTuple):
    """What a command left: its exit code, and what it said."""

    code: int
    out: str
    error: str


@pytest.fixture(autouse=True, scope="package")
def draw_figure():
    """Make figures without drawing them, which takes half the time of src.evaluate; tests/plots looks at them."""
    draw = Figure.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "draw", lambda figure, renderer: None)
        yield draw


@pytest.fixture
def drawn_figures(monkeypatch, draw_figure):
    """Draw them nevertheless."""
    monkeypatch.setattr(Figure, "draw", draw_figure)


@pytest.fixture
def command(monkeypatch, capsys):
    """`command("train", "experiment=...", ...)` runs it and gives its outcome."""

    def run(name: str, *words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", [f"src/{name}.py", *words])
        capsys.readouterr()
        try:
            task = getattr(importlib.import_module(f"src.{name}"), name)
            run_command(task, name, COMPLETE[name])
            code = 0
        except SystemExit as exit:
            code = int(exit.code or 0)
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def make_run():
    """`make_run(folder, *words)` trains into the folder; for fixtures that many tests share."""

    def run(folder: Path, *words: str) -> Path:
        before, sys.argv = sys.argv, ["src/train.py", *words, f"hydra.run.dir={folder}"]
        try:
            run_command(train, "train", training_overrides)
        except SystemExit as exit:
            assert not exit.code, words
        finally:
            sys.argv = before
        return folder

    return run


@pytest.fixture(scope="session")
def tiny():
    """Words that make any run small, without pictures, which take as long as all else."""
    return ["trainer=cpu", "debug=two_steps", "net.width=8", "callbacks.sample_images=null"]


@pytest.fixture(scope="session")
def mnist_words():
    """Words that find MNIST: where MNIST_ROOT says, or downloaded, or 5,000 digits of a package."""
    return [f"data.root={os.environ['MNIST_ROOT']}"] if "MNIST_ROOT" in os.environ else []


@pytest.fixture(scope="module")
def good_features():
    """Features of digits are learned as well as a user has them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.metrics.features.trained.MIN_STEPS", 300)
        yield


@pytest.fixture(scope="session")
def trained_run(make_run, mnist_words, tmp_path_factory):
    """`trained_run(experiment)`: trained once, for half of its steps, or what MNIST_DDPM or MNIST_CONDITIONAL names."""
    half = ["trainer.max_steps=1000", "trainer.val_check_interval=1000", "callbacks.sample_images=null"]

    def run(experiment: str) -> Path:
        given = os.environ.get(experiment.upper())
        folder = tmp_path_factory.mktemp("runs") / "run"
        return Path(given or make_run(folder, f"experiment={experiment}", *half, *mnist_words))

    return run

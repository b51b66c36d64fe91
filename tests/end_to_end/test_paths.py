"""Folders of any name, of no name, and such as cannot be written to."""

import shlex
import shutil
from pathlib import Path

import pytest
import torch

from src.utils.override_syntax import assignment
from tests.end_to_end.test_mistakes import SMALL, assert_one_line

ODD = 'lr=0.1, tried/it\'s "x" $HOME {a} [1] 50% #1 é ~ \\'


@pytest.fixture(scope="module")
def run(make_run, tmp_path_factory) -> Path:
    """A small finished run."""
    return make_run(tmp_path_factory.mktemp("runs") / "run", *SMALL, "logger=csv")


@pytest.fixture
def in_the_way(tmp_path) -> Path:
    """A file that must not be touched."""
    (tmp_path / "file").write_text("kept")
    yield tmp_path / "file"
    assert (tmp_path / "file").read_text() == "kept"


def printed(said: str, title: str) -> list[str]:
    """What a shell makes of the command in a row of the summary, for this test."""
    (line,) = (line for line in said.splitlines() if line.strip().startswith(f"{title}  ") and "python -m" in line)
    python, m, module, *words = shlex.split(line.strip().removeprefix(title))
    assert (python, m) == ("python", "-m")
    return [module.removeprefix("src."), *words]


def test_what_is_printed_can_be_pasted(command, tmp_path):
    """From training to sampling, measuring and going on, in a folder whose name means something to every parser."""
    folder = tmp_path / ODD
    done = command("train", *SMALL, assignment("hydra.run.dir", folder))
    assert done.code == 0, done.error
    assert (folder / "checkpoints/last.ckpt").is_file()
    sample, measure, more = (printed(done.out, title) for title in ("sample", "evaluate", "resume"))
    assert command(*sample, "n=2").code == 0
    assert (folder / "samples/best_2_seed_0/grid.png").is_file()
    assert measure[:2] == ["evaluate", assignment("run", folder)]
    again = command("train", *SMALL, assignment("hydra.run.dir", folder))
    assert_one_line(again, "already holds a run", shlex.quote(assignment("resume", folder)))
    done = command(*more)
    assert done.code == 0, done.error
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 4


def test_the_home_of_the_user(command, run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path / "run")
    done = command("sample", "run=~/run", "n=2", "out=~/out")
    assert done.code == 0, done.error
    assert {p.name for p in tmp_path.iterdir()} == {"run", "out"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train", ["experiment=folder_ddpm", "data.root="]),
        ("train", ["experiment=folder_ddpm", "data.root=${oc.env:EMPTY}"]),
        ("train", ["hydra.run.dir=${oc.env:EMPTY}"]),
        ("train", ["-m", "seed=1,2", "hydra.sweep.dir="]),
        ("sample", ["run=RUN", "out="]),
        ("sample", ["run=RUN", "task=sdedit", "input=[x.png,'']"]),
        ("evaluate", ["run=RUN", "samples_path="]),
        ("compare", ["runs=[RUN,'']"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_an_empty_value_does_nothing(command, run, tmp_path, monkeypatch, name, words):
    """By each command; tests/commands/test_overrides.py has the keys and the ways to be empty."""
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("DIFFUSION_LAB_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.chdir(tmp_path)
    done = command(name, *(word.replace("RUN", str(run)) for word in words))
    assert_one_line(done, words[-1].partition("=")[0])
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_an_empty_variable_of_the_environment(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFUSION_LAB_OUTPUTS", "")
    assert_one_line(command("train", *SMALL), "DIFFUSION_LAB_OUTPUTS= is empty")


@pytest.mark.parametrize(
    ("name", "words", "below"),
    [
        ("train", [*SMALL, "hydra.run.dir=OUT"], ""),
        ("train", [*SMALL, "hydra.run.dir=OUT"], "/far/below"),
        ("train", [*SMALL, "paths.outputs=OUT"], "/below"),
        ("train", ["-m", *SMALL, "seed=1,2", "hydra.sweep.dir=OUT"], "/far/below"),
        ("train", [*SMALL, "plan=local", "plan.out=OUT/x.json"], ""),
        ("sample", ["run=RUN", "n=2", "out=OUT"], ""),
        ("sample", ["run=RUN", "n=2", "out=OUT"], "/below"),
        ("sample", ["run=RUN", "-m", "n=2", "seed=1,2", "hydra.sweep.dir=OUT"], ""),
        ("evaluate", ["run=RUN", "n=200", "out=OUT"], "/far/below"),
        ("compare", ["runs=[RUN,TWIN]", "out=OUT"], ""),
        ("compare", ["runs=[RUN,TWIN]", "paths.outputs=OUT"], "/below"),
        ("compare", ["run=RUN", "out=OUT"], "/below"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else value,
)
def test_where_nothing_can_be_written(command, run, in_the_way, tmp_path, monkeypatch, name, words, below):
    """Before anything is drawn or trained."""
    monkeypatch.setattr("src.commands.training.Training.prepare", None)
    monkeypatch.setattr("src.samplers.pipeline.Pipeline.trajectory", None)
    twin = shutil.copytree(run, tmp_path / "twin") if "TWIN" in words[0] else run
    out = f"{in_the_way}{below}"
    done = command(name, *(w.replace("RUN", str(run)).replace("TWIN", str(twin)).replace("OUT", out) for w in words))
    assert_one_line(done, str(in_the_way))


def test_outputs_below_a_file(command, in_the_way, monkeypatch):
    monkeypatch.setenv("DIFFUSION_LAB_OUTPUTS", str(in_the_way))
    assert_one_line(command("train", *SMALL), str(in_the_way))


@pytest.mark.parametrize(
    ("name", "words"),
    [("x" * 300, ["train", *SMALL, "hydra.run.dir=OUT"]), ("/proc/x", ["sample", "run=RUN", "out=OUT"])],
    ids=["too long", "read-only"],
)
def test_other_folders_that_cannot_be(command, run, tmp_path, name, words):
    where = {"RUN": str(run), "OUT": str(tmp_path / name)}
    assert_one_line(command(*(w.replace("RUN", where["RUN"]).replace("OUT", where["OUT"]) for w in words)), name)

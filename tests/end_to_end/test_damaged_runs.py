"""Every file of a run and of a sweep, damaged in every way, under every command: it works, or one line names it."""

import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml

from src.utils.console import start_logging
from tests.end_to_end.running import forked

TINY = [
    "experiment=mixture_ddpm", "trainer=cpu", "debug=two_steps", "ema=power_function", "callbacks.sample_images=null",
    "trainer.precision=32-true", "data.n=400", "data.batch_size=100", "net.width=8", "net.depth=1", "logger=csv",
]  # fmt: skip
DRAW = ["sampler.steps=2", "device=cpu"]
MEASURE = [*DRAW, "n=100", "metrics=[sliced_wasserstein]"]
# A file that is no part of a run, and must be there after every command.
FOREIGN = "thesis.txt"


class Command(NamedTuple):
    """One that reads files below a folder.

    Attributes:
        name: of the command.
        words: made of the folder with the run and the sweep.
        reads: which of these it reads.
    """

    name: str
    words: Callable[[Path], list[str]]
    reads: str


COMMANDS = {
    "sample": Command("sample", lambda w: [f"run={w}/run", "n=4", *DRAW], "run"),
    "rebuild": Command("sample", lambda w: [f"run={w}/run", "n=4", "weights=0.1", *DRAW], "run"),
    "evaluate": Command("evaluate", lambda w: [f"run={w}/run", *MEASURE], "run"),
    "compare": Command("compare", lambda w: [f"runs=[{w}/run,{w}/sweep/0]", f"out={w}/compared"], "run"),
    "resume": Command("train", lambda w: [f"resume={w}/run", "trainer.max_steps=3"], "run"),
    "auto_resume": Command("train", lambda w: [*TINY, "auto_resume=true", f"hydra.run.dir={w}/run"], "run"),
    "init_from": Command("train", lambda w: [*TINY, f"init_from={w}/run", f"hydra.run.dir={w}/new"], "run"),
    "sweep": Command("train", lambda w: ["-m", f"sweep.resume={w}/sweep"], "sweep"),
    "compare_sweep": Command("compare", lambda w: [f"sweep_dir={w}/sweep", f"out={w}/compared"], "sweep"),
}


# ---- damage ----


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def load(file: Path) -> Any:
    """What a file holds, where it is of a kind that holds values under names."""
    if file.suffix in (".ckpt", ".pt"):
        return torch.load(file, weights_only=True)
    if file.suffix == ".npz":
        return dict(np.load(file))
    return {".json": json.loads, ".yaml": yaml.safe_load}[file.suffix](file.read_text())


def save(file: Path, content: Any) -> None:
    if file.suffix in (".ckpt", ".pt"):
        torch.save(content, file)
    elif file.suffix == ".npz":
        np.savez(file, **content)
    else:
        file.write_text(json.dumps(content) if file.suffix == ".json" else yaml.safe_dump(content))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: os.truncate(file, file.stat().st_size // 2),
    "random": lambda file: file.write_bytes(np.random.default_rng(0).bytes(500)),
    "not UTF-8": lambda file: file.write_bytes(b"\xff\xfe" + file.read_bytes()),
    "folder": folder,
    "pipe": pipe,
    "missing": lambda file: file.unlink(),
    "a list": lambda file: save(file, {"x": np.zeros(3)} if file.suffix == ".npz" else [1, 2]),
    "a dict": lambda file: save(file, {}),
}
OF_VALUES = ("a list", "a dict")
HOLD_VALUES = (".ckpt", ".pt", ".npz", ".json", ".yaml")


def can_have(file: Path, damage: str) -> bool:
    return damage not in OF_VALUES or file.suffix in HOLD_VALUES


# ---- trials ----


@pytest.fixture(scope="module")
def whole(make_run, tmp_path_factory) -> Path:
    """A folder with a run that was sampled and measured, and a sweep of two."""
    there = tmp_path_factory.mktemp("whole")
    make_run(there / "run", *TINY)
    swept = forked("-m", *TINY, "seed=1,2", f"hydra.sweep.dir={there}/sweep")
    assert swept.returncode == 0, swept.stderr
    return there


@pytest.fixture
def complete(whole, command) -> Path:
    """The same, with the run measured once, and a file beside it that is no part of it."""
    if not (whole / "run" / FOREIGN).exists():
        assert command("evaluate", *COMMANDS["evaluate"].words(whole)).code == 0
        (whole / "run" / FOREIGN).write_text("mine")
    return whole


def files(whole: Path, part: str) -> Iterator[Path]:
    """Those of a part, of which some that tell the same twice are left out: of two jobs, and of a snapshot a step."""
    kinds = set()
    for file in sorted((whole / part).rglob("*")):
        kind = kind_of(file.relative_to(whole))
        if file.is_file() and not file.is_symlink() and file.name != FOREIGN and kind not in kinds:
            kinds.add(kind)
            yield file.relative_to(whole)


def kind_of(file: Path) -> str:
    """The name without what differs from run to run."""
    return re.sub(r"(?<=_)[0-9a-f]{6}|\d+", "#", str(file))


def unfinish(run: Path) -> None:
    """Make the run one that was killed after its last checkpoint, so that there is something left to do."""
    facts = json.loads((run / "run.json").read_text())
    del facts["results"]
    (run / "run.json").write_text(json.dumps(facts))


@pytest.fixture
def trial(complete, command, tmp_path):
    """`trial(name, file, damage)`: the file is damaged in a copy, and the command says so in a line or does without."""
    count = itertools.count()

    def run(name: str, file: Path, damage: Callable[[Path], Any]) -> None:
        there = tmp_path / str(next(count))
        shutil.copytree(complete, there, symlinks=True)
        if name == "auto_resume":
            unfinish(there / "run")
        damage(there / file)
        before = {path for path in there.rglob("*") if not path.name.startswith(".")} - {there / file}
        wanted = COMMANDS[name]
        done = command(wanted.name, *wanted.words(there))
        said = f"{name}, {file}: {done.code} {done.error}"
        assert "Traceback" not in done.error + done.out, said
        lines = [line for line in done.error.splitlines() if line.startswith("error: ")]
        if done.code and name != "sweep":  # whose jobs fail one by one, each with its line
            assert len(lines) == 1, said
            assert file.name in lines[0] or str((there / file).parent) in lines[0], said
        assert not {path for path in before if not path.exists()}, said
        start_logging(None)  # not in the folder that goes
        shutil.rmtree(there)

    return run


# A covering part of the product: each file that is read, each damage and each command, without the slow comparisons.
QUICK = [
    ("sample", "run/config.yaml", "cut"),
    ("sample", "run/checkpoints/best.ckpt", "random"),
    ("sample", "run/checkpoints/last.ckpt", "pipe"),
    ("resume", "run/train.log", "pipe"),
    ("rebuild", "run/snapshots/step_#.pt", "empty"),
    ("evaluate", "run/evaluations/samples_#.npz", "a list"),
    ("evaluate", "run/evaluations/ddpm_#_n_#_seed_#_#/points.png", "folder"),
    ("resume", "run/run.json", "not UTF-8"),
    ("resume", "run/metrics.csv", "folder"),
    ("compare", "run/run.json", "cut"),
    ("auto_resume", "run/checkpoints/last.ckpt", "a dict"),
    ("init_from", "run/checkpoints/last.ckpt", "missing"),
    ("sweep", "sweep/sweep.json", "pipe"),
    ("sweep", "sweep/multirun.yaml", "folder"),
    ("compare_sweep", "sweep/jobs/#.json", "a list"),
    ("compare_sweep", "sweep/#/config.yaml", "a dict"),
]


@pytest.mark.parametrize(("name", "file", "damage"), QUICK, ids=lambda value: value)
def test_a_damaged_file(complete, trial, name, file, damage):
    (found,) = [f for f in files(complete, file.split("/")[0]) if kind_of(f) == file]
    trial(name, found, DAMAGES[damage])


@pytest.mark.parametrize("damage", [DAMAGES["missing"], folder], ids=["missing", "folder"])
def test_a_run_without_its_config_is_not_begun_anew(complete, command, tmp_path, damage):
    """Its checkpoints would be lost."""
    there = tmp_path / "there"
    shutil.copytree(complete, there)
    damage(there / "run/config.yaml")
    before = {p: p.read_bytes() for p in (there / "run").rglob("*.*") if p.is_file()}
    done = command("train", *COMMANDS["auto_resume"].words(there))
    assert done.code == 1 and f"error: {there}/run holds a run without its config.yaml" in done.error, done.error
    assert before == {p: p.read_bytes() for p in before}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", ["run", "sweep"])
@pytest.mark.parametrize(("j", "damage"), enumerate(DAMAGES))
def test_every_file_with_every_damage(complete, trial, part, j, damage):
    """Under each command in turn, so that each of them meets each damage, and each file nearly always."""
    names = [name for name, command in COMMANDS.items() if command.reads == part]
    for i, file in enumerate(files(complete, part)):
        if can_have(file, damage):
            trial(names[(i + j) % len(names)], file, DAMAGES[damage])


# ---- checkpoints ----

WRONG = ("x", [1], {"a": 1}, None)  # in the place of a value


def changed(key: str, value: Any = ...) -> Callable[[Path], None]:
    """A checkpoint without a key, or with another value under it."""

    def change(file: Path) -> None:
        content = load(file)
        save(file, {k: v for k, v in content.items() if k != key} | ({} if value is ... else {key: value}))

    return change


@pytest.mark.slow
@pytest.mark.parametrize("value", [..., *WRONG], ids=repr)
def test_each_key_of_a_checkpoint(complete, trial, value):
    """Removed, or of another type."""
    file = Path("run/checkpoints/last.ckpt")
    for key in load(complete / file):
        trial("resume", file, changed(key, value))

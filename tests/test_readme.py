"""The README's commands run, and its example works."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from src.commands import cli
from src.commands import config as settings
from src.commands import main as commands
from src.commands.main import run_command
from tests.end_to_end.conftest import COMPLETE
from tests.helpers.pictures import without_layout
from tests.helpers.tiny import QUICK

README = Path("README.md").read_text()
LINES = [
    line.split("   #")[0].strip() for b in re.findall(r"```bash\n(.*?)```", README, re.S) for line in b.splitlines()
]
COMMANDS = [line for line in LINES if line.startswith("python -m")]


def test_every_line_is_known_to_these_tests():
    known = (
        "make train",
        "make test",
        "make lint",
        "make test-fast",
        "make test-all",
        "make test-busy",
        "make docs",
        "make mutants",
        "make bench",
        "make bench-samplers RUN=latest",
        "make gpu-check",
        "tensorboard --logdir outputs",
    )
    assert set(LINES) == {*COMMANDS, *known}
    makefile = Path("Makefile").read_text()
    assert all(re.search(rf"^{line.split()[1]}:", makefile, re.M) for line in known if line.startswith("make"))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, tiny_images):
    """A folder with the project in it, the README's own example beside it, and a run to sample from."""
    folder = tmp_path_factory.mktemp("workplace")
    for name in ("src", "pyproject.toml"):
        (folder / name).symlink_to(Path(name).absolute())
    for path in Path("conf").rglob("*.yaml"):
        copy = folder / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    (folder / "my_parts.py").write_text(re.search(r"```python\n(.*?)```", README, re.S).group(1))
    (folder / "conf/schedule/power.yaml").write_text(re.search(r"```yaml\n(.*?)```", README, re.S).group(1))
    (folder / "FOLDER").symlink_to(tiny_images)
    return folder


@pytest.fixture
def run(workplace, monkeypatch):
    """`run(command, *more)` runs a line of the README there, in this process, which has torch and Lightning loaded."""
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(str(workplace))
    monkeypatch.delenv("DIFFUSION_LAB_OUTPUTS", raising=False)
    for module in (cli, commands, settings):
        monkeypatch.setattr(module, "CONF", workplace / "conf")

    def run(command: str, *more: str) -> None:
        name, *words = [word.removeprefix("src.") for word in shlex.split(command)[2:]]
        monkeypatch.setattr(sys, "argv", [f"src/{name}.py", *words, *more])
        with without_layout():
            run_command(getattr(importlib.import_module(f"src.{name}"), name), name, COMPLETE[name])

    return run


# What is run on every commit: a run to sample from, and the parts of one's own.
EARNEST = ("python -m src.sample run=latest n=100", "schedule=power")


@pytest.mark.parametrize("earnest", [EARNEST, pytest.param(("",), marks=pytest.mark.slow)], ids=["some", "all"])
def test_its_commands(run, workplace, tiny_mnist, capsys, earnest):
    """In their order, since some sample from the run before; each made small by a few words more, or composed only."""
    small = ["trainer=cpu", "debug=two_steps", "net.width=8", "data.batch_size=16", "callbacks.sample_images=null"]
    mnist = [f"data.root={tiny_mnist}", "data.sha256=null", "data.offline=error", "data.val_size=16"]
    first = "python -m src.train experiment=mnist_ddpm"  # what `make train` runs
    for command in (first, *COMMANDS):
        name = command.split()[2].removeprefix("src.")
        more = QUICK.get(name, [*small, *(mnist if "mnist" in command else [])])
        if command != first and not any(words in command for words in earnest):
            if " -m " in command.partition("src.")[2]:  # of which Hydra only runs the jobs
                continue
            more = [*more, "--cfg", "job"]
        try:
            run(command, *more)
        except SystemExit as exit:
            assert not exit.code, f"{command}\n{capsys.readouterr()}"
    configs = workplace.glob("outputs/sweeps/sine_ddpm/*/*/config.yaml")
    targets = {yaml.safe_load(p.read_text())["schedule"]["_target_"] for p in configs}
    assert targets == {"my_parts.Power", "src.diffusion.beta_schedules.CosineSchedule"}


def test_it_is_short():
    assert len(README.splitlines()) < 200


def test_the_example_takes_fifteen_lines(workplace):
    assert len((workplace / "my_parts.py").read_text().strip().splitlines()) <= 15

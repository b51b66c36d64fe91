"""Run the commands as a user does, but in this process, which has torch and Lightning loaded already."""

import sys
from typing import NamedTuple

import pytest

from src.runs import words_of_resumed_run, words_of_sampled_run
from src.sample import sample
from src.train import train
from src.utils.cli import run_command


class Outcome(NamedTuple):
    """What a command left: its exit code, and what it said."""

    code: int
    out: str
    error: str


@pytest.fixture
def command(monkeypatch, capsys):
    """`command("train", "experiment=...", ...)` runs it and gives its outcome."""

    def run(name: str, *words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", [f"src/{name}.py", *words])
        capsys.readouterr()
        try:
            if name == "train":
                run_command(train, "train", words_of_resumed_run)
            else:
                run_command(sample, "sample", words_of_sampled_run)
            code = 0
        except SystemExit as exit:
            code = int(exit.code or 0)
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def tiny():
    """Words that make any run small."""
    return ["trainer=cpu", "debug=two_steps", "net.width=8"]

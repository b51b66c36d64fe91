"""A command line as the commands compose and check it, in this process, and random command lines."""

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hypothesis import strategies as st

from src.commands.cli import flat_keys, to_container, user_message
from src.commands.options import CompareOptions, SampleOptions
from src.commands.overrides import check_run_dirs, normalize_override, sampling_overrides, training_overrides
from src.commands.run_setup import setup_run
from src.runs.check_config import check_config, check_options
from src.utils.override_syntax import assignment, split_flags
from src.utils.paths import CONF, resolve_strings
from tests.helpers.composing import hydra, without_hydra

REWRITE = {"train": training_overrides, "sample": sampling_overrides, "evaluate": sampling_overrides, "compare": list}
OPTIONS = {"sample": SampleOptions, "evaluate": SampleOptions, "compare": CompareOptions}


def refusal(command: str, words: Sequence[str], folder: Path) -> str | None:
    """What a command says to a command line that it does not start with; None where it starts.

    Raises:
        Exception: what would be a traceback.
    """
    with patch.object(sys, "argv", [command, *words]), hydra():
        try:
            compose_and_check(command, words, folder)
        except Exception as error:
            message = user_message(error, command)
            if message is None:
                raise
            return message
    return None


def plain_config(command: str, words: Sequence[str]) -> dict[str, Any]:
    """The config of a command line as plain containers, resolved."""
    with hydra():
        cfg = compose(command, list(words), return_hydra_config=True)
        cfg.hydra.runtime.output_dir = cfg.hydra.run.dir
        HydraConfig.instance().set_config(cfg)
        return to_container(without_hydra(cfg))


def compose_and_check(command: str, words: Sequence[str], folder: Path) -> str | None:
    """Parse, complete and check the config of a command line, as the command does before it builds anything.

    Returns:
        The key of a run; None for other commands.
    """
    typed, _ = split_flags(words)
    overrides = [*map(normalize_override, REWRITE[command]([*map(normalize_override, typed)]))]
    check_run_dirs(overrides)
    if not any(word.startswith("hydra.run.dir=") for word in overrides):
        overrides.append(assignment("hydra.run.dir", folder))
    cfg = compose(command, overrides, return_hydra_config=True)
    cfg.hydra.runtime.output_dir = str(folder)
    HydraConfig.instance().set_config(cfg)
    own = without_hydra(cfg)
    resolve_strings(own)
    if command == "train":
        return setup_run(own).key
    plain = to_container(own)
    check_options(plain, OPTIONS[command])
    check_config(plain)
    return None


@cache
def choices() -> dict[str, list[str]]:
    """The choices of every group of conf/."""
    return {
        folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
        for folder in sorted(CONF.iterdir())
        if folder.is_dir() and folder.name != "hydra"
    }


@cache
def keys(command: str) -> list[str]:
    """The dotted keys of the config of a command."""
    with hydra():
        return list(flat_keys(compose(command)))


# What means something to a shell, to Hydra, to OmegaConf, to Python or to a file system.
ODD = [
    "", " ", "null", "true", "False", "nan", "inf", "-inf", "1e999", "0", "-1", "1.0", "1_000", "0x10", "1e3", "9" * 30,
    "${", "${x}", "${seed}", "${oc.env:HOME}", "${oc.env:NO_SUCH}", "${nothing.there}", "${.x}", "???", "$HOME", "~",
    "~/x", "/", "..", "[", "]", "[]", "[[]]", "[1,2]", "[null]", "[1,a]", "{}", "{", "{a:1}", "{_target_:os.system}",
    "{_target_:nothing.there}", "{1:2,a:3}", "'", '"', '"x"', "'a b'", "a b", "a,b", "(x)", "x=y", "=", "\\", "é", "🙂",
    "\t", "\n", "%s", "#", "@", "+", "!", "a:b", "choice(1,2)", "range(3)", "glob(*)", "int(3.5)", "!!x",
]  # fmt: skip
VALUES = (
    st.sampled_from(ODD)
    | st.integers().map(str)
    | st.floats().map(str)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
)
NO_KEYS = [
    "x",
    "a.b",
    "a..b",
    ".",
    "1",
    "net.0",
    "data@x",
    "x@:y",
    "_target_",
    "hydra.run.dir",
    "hydra.mode",
    "hydra.x",
]


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A command with choices of groups and settings, of which many are mistakes."""
    command = draw(st.sampled_from(["train", "train", "train", *REWRITE]))
    groups, words = choices(), []
    if command == "train" and draw(st.booleans()):
        words.append(f"experiment={draw(st.sampled_from(groups['experiment']))}")
    for _ in range(draw(st.integers(0, 2))):
        group = draw(st.sampled_from(sorted(groups)))
        words.append(f"{group}={draw(st.sampled_from(groups[group]) | VALUES)}")
    for _ in range(draw(st.integers(0, 2))):
        key = draw(st.sampled_from(keys(command)) | st.sampled_from(NO_KEYS))
        word = draw(st.sampled_from(["", "", "", "+", "++", "~"])) + key
        words.append(draw(VALUES.map(lambda value, word=word: f"{word}={value}") | st.just(word)))
    return command, words

"""What the words of a command line mean, before Hydra sees them."""

import re
from contextlib import suppress
from pathlib import Path

from hydra.errors import OverrideParseException

from src.commands.cli import choices
from src.runs.run import RECORD, SAMPLING_GROUPS, Run
from src.runs.sweep import SWEEP, Plan
from src.runs.trust import check_trusted_overrides
from src.utils.errors import UserError
from src.utils.override_syntax import Word, assignment, override_value, read
from src.utils.paths import CONF, check_writable, expanded, is_empty, refuse_empty

# Ranges in braces, as of data.root=train-{000..009}.tar, mean something else to Hydra unless they are in quotes.
BRACE_RANGE = re.compile(r"([\w.+~]+)=([^'\"\s]*\{\w+\.\.\w+\}[^'\"\s]*)")
# Values of characters that are not in Hydra's grammar, such as ~, # and é, so that they can have but one meaning.
UNQUOTED = re.compile(r"([\w.@/+~]+)=([^'\"\[\]{}(),=]+)")
# Settings whose value is the name of a file or folder, where it looks like a number too.
PATH_KEYS = (
    "resume", "init_from", "sweep.resume", "run", "runs", "sweep_dir", "samples_path", "input", "truth", "out",
    "task.mask", "plan.out", "data.root", "data.val_root", "guidance.guide_model.run", "paths.outputs", "paths.data",
    "hydra.run.dir", "hydra.sweep.dir",
)  # fmt: skip
# Those of them that cannot be null.
REQUIRED_PATHS = ("paths.outputs", "paths.data", "hydra.run.dir", "hydra.sweep.dir")


def normalize_override(text: str) -> str:
    """A word as Hydra has to be given it, so that it reads what is meant.

    Raises:
        UserError: for a value without a name, an empty one, and a group without a choice.
        OverrideParseException: for a word that cannot be read.
    """
    if text.startswith("="):
        raise UserError(f"{text}: the name before the = is missing")
    word = parse_override(text)
    if word.sweeps or word.removes:
        return word.text
    group = (CONF / word.key).is_dir()
    if group and word.value is None:
        raise UserError(f"{text} chooses nothing. Choices: {', '.join(choices(word.key))}")
    if is_empty(word.value) and not group:
        refuse_empty(word.head)
    if word.value is None and word.key in REQUIRED_PATHS:
        raise UserError(f"{text} names no folder; leave it out, or give the name of one")
    if word.key in PATH_KEYS and isinstance(word.value, bool | int | float):
        return assignment(word.head, word.tail)
    if (
        word.key in PATH_KEYS
        and isinstance(word.value, list)
        and any(isinstance(name, int | float) for name in word.value)
    ):
        return assignment(word.head, [str(name) for name in word.value])
    if expanded(word.value) != word.value:
        return assignment(word.head, expanded(word.value))
    return word.text


def parse_override(text: str) -> Word:
    """A word, with its value in quotes where Hydra could not read it otherwise and it can have but one meaning."""
    if found := BRACE_RANGE.fullmatch(text):
        return read(assignment(found[1], found[2]))
    try:
        return read(text)
    except OverrideParseException:
        if found := UNQUOTED.fullmatch(text):
            with suppress(OverrideParseException):
                return read(assignment(found[1], found[2].strip()))
        raise


def check_run_dirs(words: list[str]) -> None:
    """Refuse folders for Hydra to make that cannot be written to.

    Raises:
        UserError: naming the setting.
    """
    for setting in ("hydra.run.dir", "hydra.sweep.dir"):
        folder = override_value(setting, words)
        if isinstance(folder, str) and "${" not in folder:
            check_writable(setting, folder)


def training_overrides(words: list[str]) -> list[str]:
    """Those of a run, a sweep or a plan; what a run or sweep was started with comes before what resumes it.

    Hydra then composes the same groups again, so that what the resuming command line says of them is understood.
    """
    words = sweep_overrides(words)
    if (resume := override_value("resume", words)) is None:
        return words
    run = Run.find(str(resume))
    run.check_version()
    saved = run.overrides()
    check_trusted_overrides(saved, run.path / RECORD, override_value("trust", words) is True)
    return words if words[: len(saved)] == saved else [*saved, *words]


def sampling_overrides(words: list[str]) -> list[str]:
    """Let words such as sampler.repeats=5 change the run's own sampler, whose settings Hydra does not know.

    `check_config` refuses those that it does not have.
    """
    read_words = [read(word) for word in sweep_overrides(words)]
    chosen = {word.key for word in read_words}
    return [f"++{word.text}" if changes_sampling_part(word, chosen) else word.text for word in read_words]


def changes_sampling_part(word: Word, chosen: set[str]) -> bool:
    """Whether a word changes a setting of the run's own sampler and so on, rather than of one that is chosen anew."""
    part = word.key.split(".")[0]
    return word.head == word.key != part and part in SAMPLING_GROUPS and part not in chosen


def sweep_overrides(words: list[str]) -> list[str]:
    """The words of a sweep that goes on: its own, where none are given but those that say so.

    Raises:
        UserError: where the folder is not one of a sweep.
    """
    if (folder := override_value("sweep.resume", words)) is None:
        return words
    if not (Path(folder) / SWEEP).is_file():
        raise UserError(f"sweep.resume={folder}: there is no sweep in that folder, since it holds no {SWEEP}")
    plan, given = Plan.read(Path(folder)), [word for word in words if not is_launch_key(read(word).key)]
    typed = [] if given else [*plan.hydra_words, *plan.words]
    check_trusted_overrides(typed, Path(folder) / SWEEP, override_value("trust", words) is True)
    start = ("sweep.resume", "sweep.retry", "sweep.dry_run")
    own = [word for word in typed if read(word).key not in start and word not in words]
    return [*own, *words, assignment("hydra.sweep.dir", Path(folder).absolute()), "hydra.mode=MULTIRUN"]


def is_launch_key(key: str) -> bool:
    """Whether a setting says how a sweep goes on, and not what its jobs are."""
    return key.startswith("sweep.") or key in ("trust", "resume_changed_data")

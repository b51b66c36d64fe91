"""Rewrite the overrides of a command line before Hydra parses them: quotes, ~, and those of a resumed run or sweep.

No key is renamed: what is typed is what the config has.
"""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.errors import OverrideParseException

from src.commands.cli import choices
from src.commands.sources import saved_choices
from src.runs.run import CONFIG, RECORD, SAMPLING_GROUPS, Run
from src.runs.sweep import SWEEP, SweepPlan
from src.runs.trust import check_trusted_config, check_trusted_overrides
from src.utils.errors import UserError
from src.utils.override_syntax import Word, assignment, override_value, read
from src.utils.paths import CONF, check_writable, expanded, is_empty, refuse_empty

# Ranges in braces, such as data.root=train-{000..009}.tar, which Hydra would parse as a dict without quotes.
BRACE_RANGE = re.compile(r"([\w.+~]+)=([^'\"\s]*\{\w+\.\.\w+\}[^'\"\s]*)")
# Texts, in which commas and colons are no syntax; a list or quotes are.
PROSE = re.compile(r"([\w.+]*condition\.text)=([^'\"\[].*)")
# Values with characters outside Hydra's grammar, such as ~, # and é, which can only be strings.
UNQUOTED = re.compile(r"([\w.@/+~]+)=([^'\"\[\]{}(),=]+)")
# Keys whose value is the name of a file or folder, even if it looks like a number.
PATH_KEYS = (
    "resume", "init_from", "teacher", "sweep.resume", "run", "runs", "sweep_dir", "samples_path", "input", "truth",
    "new", "textfile", "out",
    "condition", "condition.rows", "condition.image",
    "task.mask", "plan.out", "data.root", "data.val_root", "data.image", "data.val_image",
    "guidance.guide_model.run", "paths.outputs", "paths.data", "hydra.run.dir", "hydra.sweep.dir",
)  # fmt: skip
# Parts of the training of a run that src.retrain may change.
TRAINING = ("trainer", "optimizer", "lr_schedule", "logger", "callbacks", "ema")
# The path keys that must not be null.
REQUIRED_PATHS = ("paths.outputs", "paths.data", "hydra.run.dir", "hydra.sweep.dir")


def normalize_override(text: str) -> str:
    """Quote an override where Hydra would misread it: paths that look like numbers, and a ~ for the home folder.

    Raises:
        UserError: for an override without a key, an empty value, or a group without a choice.
        OverrideParseException: for an override that Hydra cannot parse.
    """
    if text.startswith("="):
        raise UserError(f"{text}: the name before the = is missing")
    override = parse_override(text)
    group = (CONF / override.key).is_dir()
    if group and not all(isinstance(name, str | None) for name in as_list(override.value)):  # a ValueError of Hydra
        raise UserError(f"{text}: there is no such choice. Choices: {', '.join(choices(override.key))}")
    if override.sweeps or override.removes:
        return override.text
    if group and override.value is None:
        raise UserError(f"{text} chooses nothing. Choices: {', '.join(choices(override.key))}")
    if is_empty(override.value) and not group:
        refuse_empty(override.head)
    if override.value is None and override.key in REQUIRED_PATHS:
        raise UserError(f"{override.key} must be a folder, got null; leave it out, or name a folder")
    if override.key in PATH_KEYS and isinstance(override.value, bool | int | float):
        return assignment(override.head, override.tail)
    if (
        override.key in PATH_KEYS
        and isinstance(override.value, list)
        and any(isinstance(name, int | float) for name in override.value)
    ):
        return assignment(override.head, [str(name) for name in override.value])
    if expanded(override.value) != override.value:
        return assignment(override.head, expanded(override.value))
    return override.text


def as_list(value: Any) -> list[Any]:
    """A list as it is, any other value as one of a single item."""
    return value if isinstance(value, list) else [value]


def parse_override(text: str) -> Word:
    """Parse an override, with quotes around a value that Hydra cannot parse without them and that is unambiguous."""
    if found := BRACE_RANGE.fullmatch(text):
        return read(assignment(found[1], found[2]))
    if found := PROSE.fullmatch(text):
        return read(assignment(found[1], found[2]))
    try:
        return read(text)
    except OverrideParseException:
        if found := UNQUOTED.fullmatch(text):
            with suppress(OverrideParseException):
                return read(assignment(found[1], found[2].strip()))
        raise


def check_run_dirs(overrides: list[str]) -> None:
    """Refuse folders of runs and sweeps that cannot be written to, before Hydra makes them.

    Raises:
        UserError: naming the key.
    """
    for setting in ("hydra.run.dir", "hydra.sweep.dir"):
        folder = override_value(setting, overrides)
        if isinstance(folder, str) and "${" not in folder:
            check_writable(setting, folder)


def training_overrides(overrides: list[str]) -> list[str]:
    """The overrides of src.train; those that a run or sweep was started with are put before those that resume it.

    Hydra then composes the same groups again, which the resuming command line may change.
    """
    overrides = with_pretrained(combine_conditions(sweep_overrides(overrides)))
    # Arguments of a model of another library, which only that knows.
    overrides = [f"++{text}" if text.startswith("net.config") else text for text in overrides]
    if (resume := override_value("resume", overrides)) is None:
        return overrides
    run = Run.find(str(resume))
    run.check_version()
    saved = run.overrides()
    trust = override_value("trust", overrides) is True
    check_trusted_overrides(saved, run.path / RECORD, trust)
    own = saved_choices(run.path, overrides)
    if own and not trust:
        check_trusted_config(run.settings(), run.path / CONFIG)  # otherwise Hydra says that there is no such choice
        own = []
    return [*overrides, *own] if overrides[: len(saved)] == saved else [*saved, *overrides, *own]


def combine_conditions(overrides: list[str]) -> list[str]:
    """The overrides with condition=[A,B] written as condition=combined, whose parts are the choices A and B."""
    found: list[str] = []
    for text in overrides:
        word = read(text)
        if word.key == word.head == "condition" and isinstance(word.value, list):
            parts = [assignment(f"+condition@condition.parts.{name}", name) for name in word.value]
            found += ["condition=combined", *parts] if len(parts) != 1 else [assignment("condition", word.value[0])]
        else:
            found.append(text)
    return found


def with_pretrained(overrides: list[str]) -> list[str]:
    """The overrides, with the choice of pretrained= that init_from=NAME:PATH means, such as diffusers:FOLDER."""
    name, colon, path = str(override_value("init_from", overrides)).partition(":")
    known = {read(override).key for override in overrides}
    if not colon or "pretrained" in known or name not in choices("pretrained"):
        return overrides
    return [*overrides, f"pretrained={name}", assignment("pretrained.path", path)]


def sampling_overrides(overrides: list[str]) -> list[str]:
    """The overrides of commands that use a run, with ++ before settings of the run's own sampler and so on.

    Hydra does not know those parts, so that it could not override them otherwise; `check_config` refuses unknown keys.
    """
    parsed = [read(requested_condition(override)) for override in sweep_overrides(overrides)]
    chosen = {override.key for override in parsed}
    return [f"++{override.text}" if changes_sampling_part(override, chosen) else override.text for override in parsed]


def retraining_overrides(overrides: list[str]) -> list[str]:
    """The overrides of src.retrain, with ++ before settings of the new data and of the run's own training."""
    parsed = [read(with_digest(override)) for override in overrides]
    chosen = {override.key for override in parsed}
    return [f"++{word.text}" if changes_training(word, chosen) else word.text for word in parsed]


def with_digest(text: str) -> str:
    """An override of rollback= by a digest, which may look like a number."""
    word = read(text)
    return assignment("rollback", word.tail) if word.key == "rollback" and not isinstance(word.value, bool) else text


def changes_training(override: Word, chosen: set[str]) -> bool:
    """True if an override sets a key of the new data or of a part of the run's training that is not newly chosen."""
    part = override.key.split(".")[0]
    return override.head == override.key != part and part in (*TRAINING, "new_data") and part not in chosen


def requested_condition(text: str) -> str:
    """An override that asks for a condition, with ++ before it, and condition=FILE as a setting of its own.

    Hydra knows neither the names of a run's conditions nor that the group of that name is not meant.
    """
    word = read(text)
    if word.head != word.key or word.key.split(".")[0] != "condition":
        return text
    return assignment("++condition.rows", word.value) if word.key == "condition" else f"++{text}"


def changes_sampling_part(override: Word, chosen: set[str]) -> bool:
    """True if an override sets a key of the run's own sampler, guidance and so on, not of a newly chosen one."""
    part = override.key.split(".")[0]
    return override.head == override.key != part and part in SAMPLING_GROUPS and part not in chosen


def sweep_overrides(overrides: list[str]) -> list[str]:
    """The overrides of a resumed sweep: its own, unless the command line has others than launch keys.

    Raises:
        UserError: if the folder holds no sweep.
    """
    if (folder := override_value("sweep.resume", overrides)) is None:
        return overrides
    if not (isinstance(folder, str) and (Path(folder) / SWEEP).is_file()):
        raise UserError(
            f"sweep.resume={folder}: the folder holds no sweep, since {SWEEP} is missing; name the folder of a sweep"
        )
    plan = SweepPlan.read(Path(folder))
    given = any(not is_launch_key(read(override).key) for override in overrides)
    saved = [] if given else [*plan.hydra_overrides, *plan.overrides]
    check_trusted_overrides(saved, Path(folder) / SWEEP, override_value("trust", overrides) is True)
    start = ("sweep.resume", "sweep.retry", "sweep.dry_run")
    own = [override for override in saved if read(override).key not in start and override not in overrides]
    return [*own, *overrides, assignment("hydra.sweep.dir", Path(folder).absolute()), "hydra.mode=MULTIRUN"]


def is_launch_key(key: str) -> bool:
    """True if a key says how a sweep is resumed, and not what its jobs are."""
    return key.startswith("sweep.") or key in ("trust", "resume_changed_data")

"""Check that a config from a run folder, which may be someone else's, runs only code of this project's parts.

Hydra calls the `_target_` of a config, so a config is code. A config composed by the command line is the user's own. In
a config from a run folder every target must be a part of this project, or one of the classes of torch and Lightning
in :mod:`src.utils.targets`, unless the command line says trust=true. docs/security.md lists the guarantees.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from src.utils.errors import UserError
from src.utils.paths import CONF
from src.utils.targets import is_part, untrusted_targets

# Settings of Hydra that a saved sweep may have: numbers and names, which run nothing.
PLAIN_SETTING = re.compile(r"hydra[./](?:sweeper|launcher)(?:\.(?!python\b|setup\b)\w+)*=[\w.:,+-]*")

_trusted: ContextVar[bool] = ContextVar("trusted", default=False)


@contextmanager
def trust_configs(asked: bool) -> Iterator[None]:
    """Accept any target in configs from folders if `asked`, the value of trust=."""
    token = _trusted.set(asked)
    try:
        yield
    finally:
        _trusted.reset(token)


def is_trusted() -> bool:
    """True if the command line says trust=true."""
    return _trusted.get()


def check_trusted_config(cfg: dict[str, Any], file: Path) -> None:
    """Refuse a saved config with targets outside this project, or with interpolations.

    Args:
        cfg: the saved config as plain containers.
        file: the file that it is from.

    Raises:
        UserError: naming the file, the place in it, and the target.
    """
    for path, value in string_values(cfg):
        if "${" in value:
            raise UserError(f"{file}: {path} holds the interpolation {value!r}; replace it by its value")
    for path, name in [] if is_trusted() else untrusted_targets(cfg):
        raise UserError(
            f"{file}: {path}._target_={name} is neither a part of this project nor one of the classes of torch and "
            "Lightning that a run folder may name. If you trust who made the folder, add trust=true: that code runs"
        )


def string_values(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every string in plain containers, with its path."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from string_values(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from string_values(value, f"{path}[{i}]")


def check_trusted_overrides(overrides: Sequence[str], file: Path, trust: bool) -> None:
    """Refuse saved overrides that do more than set values and choose among the files of conf/.

    Raises:
        UserError: naming the file and the override.
    """
    for override in [] if trust else overrides:
        key, _, value = override.lstrip("+~").partition("=")
        key = re.sub(r"condition@condition\.parts\.\w+", "condition", key)  # one of several conditions
        named = key.endswith("_target_") and all(is_part(name) for name in value.split(","))
        chooses = "/" in key or (CONF / key).is_dir()
        if (
            (key.startswith("hydra") and not PLAIN_SETTING.fullmatch(override))
            or not re.fullmatch(r"\w[\w.-]*(/\w+)?", key)
            or ".." in key
            or (chooses and not re.fullmatch(r"[\w,\[\] -]*", value))  # a file outside conf/
            or "${" in override
            or ("_target_" in override and not named)
        ):
            raise UserError(
                f"{file} holds the override {override}, which could run code or read other configs. If you trust "
                "who made the folder, add trust=true"
            )

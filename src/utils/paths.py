"""Paths in settings: expand ~, refuse empty paths, and check folders that are written to."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from src.utils.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
# Beside the package in the project folder, within it where it is installed.
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())
OUTPUTS = "DIFFUSION_LAB_OUTPUTS"  # environment variable for the folder of all outputs


def expanded(value: Any) -> Any:
    """Expand ~ at the beginning of a value, or of the values of a list, to the user's home."""
    if isinstance(value, list):
        return [expanded(item) for item in value]
    tilde = isinstance(value, str) and value.startswith("~")
    return os.path.expanduser(value) if tilde else value  # noqa: PTH111 - unlike pathlib, it keeps an unknown ~user


def is_empty(value: Any) -> bool:
    """Return True for an empty string, or a list that contains one."""
    return any(map(is_empty, value)) if isinstance(value, list) else isinstance(value, str) and not value.strip()


def refuse_empty(setting: str) -> None:
    """Raise UserError for a setting with an empty value."""
    raise UserError(f"{setting}= is empty (an unset shell variable?); set a value, or leave it out")


def resolve_environment() -> None:
    """Expand ~ in the environment variable for the outputs.

    Raises:
        UserError: if it is empty.
    """
    if (value := os.environ.get(OUTPUTS)) is not None:
        if is_empty(value):
            refuse_empty(OUTPUTS)
        os.environ[OUTPUTS] = expanded(value)


def resolve_strings(cfg: DictConfig) -> None:
    """Expand ~ at the beginning of all strings of a composed config, and refuse empty ones.

    Parts of other libraries, such as a logger of Lightning, may have empty strings.

    Raises:
        UserError: naming the setting.
    """
    for node, key in strings(cfg):
        text = node._get_node(key)._value()
        if "${" in text and "oc.env:" not in text:
            continue  # the setting that it refers to is checked itself
        value = node[key]
        if is_empty(value) and is_project_part(node):
            refuse_empty(node._get_full_key(key))
        if expanded(value) != value:
            node[key] = expanded(value)


def strings(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every string of a config, as its node and key."""
    if not isinstance(node, DictConfig | ListConfig) or node._is_none() or node._is_missing():
        return
    if node._is_interpolation():
        return
    keys: list[Any] = list(node.keys()) if isinstance(node, DictConfig) else list(range(len(node)))
    for key in keys:
        child: Any = node._get_node(key)
        if isinstance(child, DictConfig | ListConfig):
            yield from strings(child)
        elif isinstance(child._value(), str) and child._value() != "???":
            yield node, key


def is_project_part(node: Any) -> bool:
    """Return True if a node has no `_target_`, or one in this project."""
    target = node._get_node("_target_") if isinstance(node, DictConfig) else None
    return target is None or str(target._value()).startswith("src.")


def check_writable(setting: str, folder: str | Path, instead: str = "name another folder") -> Path:
    """Check that a folder can be written to or created, by a temporary file in its first existing parent.

    Args:
        setting: the setting that the error message names.
        folder: the folder.
        instead: advice for the error message.

    Raises:
        UserError: if it cannot be written to.
    """
    folder = Path(folder)
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    try:
        for part in folder.parts[len(there.parts) :]:
            with suppress(FileNotFoundError):
                (there / part).lstat()  # fails if the name is too long
        with tempfile.TemporaryFile(dir=there):
            pass
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{setting}={folder} cannot be written to ({reason}); {instead}") from error
    return folder

"""Paths in settings: ~ is expanded, empty ones are refused, and folders to write to are checked."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from src.utils.errors import UserError

CONF = Path(__file__).resolve().parents[2] / "conf"
OUTPUTS = "DIFFUSION_LAB_OUTPUTS"  # environment variable for the folder of all outputs


def expanded(value: Any) -> Any:
    """A value, or a list of values, with ~ at the beginning expanded to the home of the user."""
    if isinstance(value, list):
        return [expanded(item) for item in value]
    tilde = isinstance(value, str) and value.startswith("~")
    return os.path.expanduser(value) if tilde else value  # noqa: PTH111 - which leaves a ~ that is no home


def is_empty(value: Any) -> bool:
    """Return whether the value is an empty string or a list with one."""
    return any(map(is_empty, value)) if isinstance(value, list) else isinstance(value, str) and not value.strip()


def refuse_empty(setting: str) -> None:
    """Raise UserError for a setting with an empty value."""
    raise UserError(f"{setting}= is empty, as where a shell variable is not set; give a value, or leave it out")


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
        if is_empty(value) and is_ours(node):
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


def is_ours(node: Any) -> bool:
    """Whether a node is a part of this project, or of no part."""
    target = node._get_node("_target_") if isinstance(node, DictConfig) else None
    return target is None or str(target._value()).startswith("src.")


def check_writable(setting: str, folder: str | Path, instead: str = "name another folder") -> Path:
    """Check that a folder can be written to or created, by a temporary file in its first existing parent.

    Args:
        setting: the setting with its path, for the message.
        folder: the folder.
        instead: advice for the message.

    Raises:
        UserError: if it cannot be written to.
    """
    folder = Path(folder)
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    try:
        for part in folder.parts[len(there.parts) :]:
            with suppress(FileNotFoundError):
                (there / part).lstat()  # which fails where the name is too long
        with tempfile.TemporaryFile(dir=there):
            pass
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{setting}={folder} cannot be written to ({reason}); {instead}") from error
    return folder

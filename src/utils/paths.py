"""Names of files and folders: ~ is the home of the user, an empty one names nothing, and not all can be written to."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from src.utils.errors import UserError

CONF = Path(__file__).resolve().parents[2] / "conf"
OUTPUTS = "DIFFUSION_LAB_OUTPUTS"  # the variable of the environment that says where everything is written


def expanded(value: Any) -> Any:
    """A value, or those of a list, with the home of the user for a ~ at its beginning."""
    if isinstance(value, list):
        return [expanded(item) for item in value]
    tilde = isinstance(value, str) and value.startswith("~")
    return os.path.expanduser(value) if tilde else value  # noqa: PTH111 - which leaves a ~ that is no home


def is_empty(value: Any) -> bool:
    """Whether it is a string without anything in it, or a list that holds one."""
    return any(map(is_empty, value)) if isinstance(value, list) else isinstance(value, str) and not value.strip()


def refuse_empty(setting: str) -> None:
    """Say that a setting has an empty value, which would do something else than what is meant."""
    raise UserError(f"{setting}= is empty, as where a shell variable is not set; give a value, or leave it out")


def settle_environment() -> None:
    """Read the variable of the environment as a setting is read.

    Raises:
        UserError: where it is empty.
    """
    if (value := os.environ.get(OUTPUTS)) is not None:
        if is_empty(value):
            refuse_empty(OUTPUTS)
        os.environ[OUTPUTS] = expanded(value)


def settle_strings(cfg: DictConfig) -> None:
    """Refuse empty strings in a composed config, and expand ~ at the beginning of the others.

    Of parts that are not ours, such as a logger of Lightning, empty strings may mean something.

    Raises:
        UserError: naming the setting.
    """
    for node, key in strings(cfg):
        text = node._get_node(key)._value()
        if "${" in text and "oc.env:" not in text:
            continue  # the setting that it is taken from is looked at itself
        value = node[key]
        if is_empty(value) and is_ours(node):
            refuse_empty(node._get_full_key(key))
        if expanded(value) != value:
            node[key] = expanded(value)


def strings(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every string of a config, as the node that holds it and its key there."""
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
    """See whether a folder can be written into, or made: by a file without a name in what there is of its path.

    Args:
        setting: what named it.
        folder: of files to be written.
        instead: what to do where that cannot be.

    Raises:
        UserError: saying why it cannot be written to.
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

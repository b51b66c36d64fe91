"""The folders that commands write into: new or empty ones, and those that they made themselves."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from src.utils.errors import UserError

LOCK = ".lock"
# What a command that is killed leaves before it has written which folder this is; see `whole`.
PARTIAL = re.compile(r"\.\w+\.\d+\.json")


def check_named(setting: str, value: Any) -> None:
    """Refuse an empty name, which would be the working directory.

    Raises:
        UserError: naming the setting.
    """
    if value is None or not str(value).strip():
        raise UserError(f"{setting}= is empty; name a new folder, or leave it out")


def check_empty(setting: str, folder: Path) -> None:
    """Refuse a folder that holds files of others, which a command that writes there could overwrite.

    Raises:
        UserError: naming one of them.
    """
    names = sorted(item.name for item in folder.iterdir() if not is_leftover(item)) if folder.is_dir() else []
    if names:
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise UserError(
            f"{setting}={folder} is not empty: it holds {names[0]}{others}, which no run or sweep wrote; "
            "name a new or an empty folder"
        )


def is_leftover(item: Path) -> bool:
    """Whether it is what a command leaves that is killed when it has just taken the folder."""
    return (item.name == LOCK and item.stat().st_size == 0) or PARTIAL.fullmatch(item.name) is not None


def remove_if_empty(folder: Path) -> None:
    """Remove a folder that was made for a command that came to nothing."""
    if folder != Path.cwd():
        with suppress(OSError):
            folder.rmdir()

"""Checks of the folders that commands write to: new, empty, or made by this project."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from src.utils.errors import UserError
from src.utils.paths import check_writable

LOCK = ".lock"
RUN = "run.json"  # in a run folder
MARK = ".diffusion-lab"  # in a folder of results, which may be overwritten
# Suffixes and folder names of results.
RESULTS = (".npz", ".png", ".gif", ".json", ".html", ".csv", ".md")
RESULT_FOLDERS = ("input", "result", "images")
# A temporary file that a killed command leaves before it marks its folder; see `atomic_write`.
PARTIAL = re.compile(r"\.\w+\.\d+\.json")


def check_named(setting: str, value: Any) -> None:
    """Refuse an empty folder name, which would mean the working directory.

    Raises:
        UserError: naming the setting.
    """
    if value is None or not str(value).strip():
        raise UserError(f"{setting}= is empty; name a new folder, or leave it out")


def check_empty(setting: str, folder: Path) -> None:
    """Refuse a folder that holds other files, which a command could overwrite.

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


def check_out(folder: str | Path) -> None:
    """Refuse a folder for results that cannot be written to, or that holds similar files of another origin.

    Raises:
        UserError: naming the file that could be overwritten.
    """
    folder = check_writable("out", folder, "give another out=FOLDER")
    if not folder.is_dir() or is_results_folder(folder):
        return
    for item in sorted(folder.iterdir()):
        if item.suffix in RESULTS or item.name in RESULT_FOLDERS:
            raise UserError(
                f"out={folder} holds {item.name}, which no command of this project wrote and which could be "
                "overwritten; name another folder"
            )


def is_results_folder(folder: Path) -> bool:
    """Return True if a folder is, or lies in, a run folder or a folder of results."""
    folder = folder.absolute()
    return any((parent / name).exists() for parent in (folder, *folder.parents) for name in (MARK, RUN))


def make_out(folder: Path) -> None:
    """Create a folder for results, and mark it as one whose files may be overwritten."""
    folder.mkdir(parents=True, exist_ok=True)
    if not is_results_folder(folder):
        (folder / MARK).touch()


def is_leftover(item: Path) -> bool:
    """Return True for a file that a command leaves if it is killed right after it locks the folder."""
    return (item.name == LOCK and item.stat().st_size == 0) or PARTIAL.fullmatch(item.name) is not None


def remove_if_empty(folder: Path) -> None:
    """Remove the folder of a command that failed before it wrote anything; never the working directory."""
    if folder != Path.cwd():
        with suppress(OSError):
            folder.rmdir()

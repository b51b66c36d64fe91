"""Atomic writes: after a kill or a power cut, a file or folder is either complete or absent."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.utils.errors import UserError


@contextmanager
def atomic_write(path: Path, partial: Path | None = None) -> Iterator[Path]:
    """Yield a path to write to, which replaces `path` when the block ends; if it fails, the old file stays.

    Args:
        path: the file to write.
        partial: the temporary path; by default a hidden one beside `path`, with the process id, since several processes
            may write at once. A given path is reused after a kill, so that kills do not fill the disk; it may be a
            folder, which replaces the folder `path`.

    Raises:
        UserError: if `path` is a folder and `partial` is not given.
    """
    if partial is None:
        if path.is_dir():
            raise UserError(f"{path} must be a file, got a folder; remove or rename it")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(
            f".{path.stem}.{os.getpid()}{path.suffix}"
        )  # numpy appends its suffix if it is missing
    elif partial.is_dir():
        remove(partial)
    try:
        yield partial
        if partial.is_file():
            with partial.open("rb") as file:  # so that a power cut does not leave an empty file
                os.fsync(file.fileno())
        replace(partial, path)
    finally:
        remove(partial)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 atomically."""
    with atomic_write(path) as partial:
        partial.write_text(text, "utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically; values that JSON cannot represent are written as text."""
    write_text(path, json.dumps(content, indent=2, default=str) + "\n")


def save_tensors(content: dict[str, Any], path: Path, name: str) -> None:
    """Write plain containers and tensors atomically by torch.save.

    Args:
        content: the containers and tensors.
        path: the file, in a folder whose parent exists.
        name: the name of the content in the error message.

    Raises:
        UserError: if writing fails.
    """
    import torch  # its import takes a second, which --help does not need

    try:
        path.parent.mkdir(exist_ok=True)  # without parents: if they are missing, the run folder was removed
        with atomic_write(path, partial_path(path)) as partial, partial.open("wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError for a full disk
        kept = f"the previous {path} is kept" if path.exists() else "there is no earlier file"
        raise UserError(
            f"{name} could not be written to {path.parent} ({root_message(error)}); {kept}. "
            "Free some space and resume the run"
        ) from error


def require_exists(folder: Path, name: str = "") -> None:
    """Refuse to write into a run folder, or to a file in it, that was removed during the run.

    Raises:
        UserError: if the folder or file does not exist.
    """
    if not (folder / name).exists():
        missing = folder / name if folder.exists() else folder
        raise UserError(
            f"{missing} was removed or renamed during the run, which has stopped. "
            "Resume from the last checkpoint with resume=FOLDER, the present path of the run folder"
        )


def replace(new: Path, path: Path) -> None:
    """Replace a file or folder by another: a file in one move, a folder in two moves with a backup in between.

    After a kill between the two moves, `restore_backup` moves the old folder back.
    """
    if not (new.is_dir() or path.is_dir()):
        new.replace(path)
        return
    restore_backup(path)
    if path.exists():
        remove(backup_path(path))
        path.rename(backup_path(path))
    new.rename(path)
    remove(backup_path(path))


def restore_backup(path: Path) -> None:
    """Move the backup of an interrupted `replace` back to its path, if that is free."""
    if not path.exists() and backup_path(path).exists():
        backup_path(path).rename(path)


def backup_path(path: Path) -> Path:
    """The path of the backup during `replace`."""
    return path.with_name(f".{path.name}.old")


def partial_path(path: Path) -> Path:
    """The temporary path of a checkpoint while it is written; only one process writes it."""
    return path.with_name(f".{path.name}.partial")


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def root_message(error: BaseException) -> str:
    """The first line of the message of the error's root cause, such as that of the operating system."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return str(error).splitlines()[0]

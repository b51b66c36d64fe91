"""Atomic writes: a file or folder is there as a whole or not at all, also after a kill or a power cut."""

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
        partial: the path to write to; by default a hidden one beside `path` for this process, since several processes
            may write at once. A given one is the same after a kill, so that kills do not fill the disk; it may be a
            folder, and replace one.

    Raises:
        UserError: if `path` is a folder and `partial` is not given.
    """
    if partial is None:
        if path.is_dir():
            raise UserError(f"{path} is a folder, but a file of that name is to be written; remove or rename it")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")  # numpy goes by the suffix
    elif partial.is_dir():
        remove(partial)
    try:
        yield partial
        if partial.is_file():
            with partial.open("rb") as file:  # so that a power cut leaves no empty file of that name
                os.fsync(file.fileno())
        replace(partial, path)
    finally:
        remove(partial)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 atomically."""
    with atomic_write(path) as partial:
        partial.write_text(text, "utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically; values that JSON lacks become text."""
    write_text(path, json.dumps(content, indent=2, default=str) + "\n")


def save_tensors(content: dict[str, Any], path: Path, name: str) -> None:
    """Write plain containers and tensors atomically by torch.save.

    Args:
        content: what to save.
        path: the file, in a folder whose parent exists.
        name: of the content, for the error message.

    Raises:
        UserError: if writing fails.
    """
    import torch  # takes a second to import, which --help need not wait for

    try:
        path.parent.mkdir(exist_ok=True)  # not its parents, which are gone only if the run folder was removed
        with atomic_write(path, partial_path(path)) as partial, partial.open("wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError for a full disk
        kept = f"the previous {path} is kept" if path.exists() else "there is no earlier one"
        raise UserError(
            f"{name} could not be written to {path.parent} ({root_message(error)}); {kept}. "
            "Free some space and resume the run"
        ) from error


def require_exists(folder: Path, name: str = "") -> None:
    """Refuse to write into a run folder, or to a file in it, that was removed during the run.

    Raises:
        UserError: if it does not exist.
    """
    if not (folder / name).exists():
        raise UserError(
            f"{folder} was removed or renamed while a run was writing to it, or {name or 'all'} in it; the run has "
            "stopped. Where the folder is now, it goes on from the last checkpoint there: resume=FOLDER"
        )


def replace(new: Path, path: Path) -> None:
    """Put a file or folder in the place of another: a file in one move, a folder in two with a backup in between.

    After a kill between the two, `restore_backup` moves the old one back.
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
    """Move a backup that a killed `replace` has left back to its path, if nothing is there."""
    if not path.exists() and backup_path(path).exists():
        backup_path(path).rename(path)


def backup_path(path: Path) -> Path:
    """The path of the backup during `replace`."""
    return path.with_name(f".{path.name}.old")


def partial_path(path: Path) -> Path:
    """The path of an unfinished checkpoint, which only one process writes."""
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

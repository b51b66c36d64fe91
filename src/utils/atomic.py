"""Files that are there as a whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from src.utils.errors import UserError


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A path beside `file` to write to, which takes its place in one move when all is written.

    Where the writing fails, what there is of it goes, and the old file stays.

    Raises:
        UserError: where a folder has that name.
    """
    if file.is_dir():
        raise UserError(f"{file} is a folder, but a file of that name is to be written; remove or rename it")
    file.parent.mkdir(parents=True, exist_ok=True)
    # Its own for each process, and with the same ending, by which numpy knows what to write.
    partial = file.with_name(f".{file.stem}.{os.getpid()}{file.suffix}")
    try:
        yield partial
        with partial.open("rb") as written:  # so that a power cut leaves no empty file of that name
            os.fsync(written.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def check_still_there(folder: Path, name: str = "") -> None:
    """Refuse to make the folder of a run anew, or something in it that was there before.

    Raises:
        UserError: where it is gone, most likely with all that is around it.
    """
    if not (folder / name).exists():
        raise UserError(
            f"{folder} was removed or renamed while a run was writing to it, or {name or 'all'} in it; the run has "
            "stopped. Where the folder is now, it goes on from the last checkpoint there: resume=FOLDER"
        )


def take_place(new: Path, path: Path) -> None:
    """Put a file or folder in the place of another: a file in one move, a folder in two, between which the old one is
    put aside; `put_back` mends what a kill there leaves.
    """
    if not (new.is_dir() or path.is_dir()):
        new.replace(path)
        return
    put_back(path)
    if path.exists():
        remove(aside(path))
        path.rename(aside(path))
    new.rename(path)
    remove(aside(path))


def put_back(path: Path) -> None:
    """Give a file or folder that was put aside its place again, where nothing has taken it."""
    if not path.exists() and aside(path).exists():
        aside(path).rename(path)


def aside(path: Path) -> Path:
    """Where what is to be replaced waits."""
    return path.with_name(f".{path.name}.old")


def remove(path: Path) -> None:
    """Remove a file or a folder, where there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_whole(content: dict[str, Any], path: Path, name: str) -> None:
    """Write plain containers and tensors beside the old file, and then take its place.

    Raises:
        UserError: where that fails, saying `name`; the old file is left as it was.
    """
    import torch  # takes a second to import, which --help need not wait for

    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(exist_ok=True)  # not what it is in, which a run has made
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        take_place(partial, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError of its archive writer
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        kept = f"the previous {path} is kept" if path.exists() else "there is no earlier one"
        raise UserError(
            f"{name} could not be written to {path.parent} ({reason(error)}); {kept}. "
            "Free some space and resume the run"
        ) from error


def reason(error: BaseException) -> str:
    """The system's own words where there are any."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return str(error).splitlines()[0]

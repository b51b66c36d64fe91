"""Files that are there as a whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A path beside `file` to write to, which takes its place in one move when all is written.

    Where the writing fails, what there is of it goes, and the old file stays.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # Its own for each process, and with the same ending, by which numpy knows what to write.
    partial = file.with_name(f".{file.stem}.{os.getpid()}{file.suffix}")
    try:
        yield partial
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def take_place(new: Path, path: Path) -> None:
    """Put a file or folder where another one is, that of the two kinds which cannot be replaced in one move too."""
    if new.is_dir() or path.is_dir():
        old = path.with_name(f".{path.name}.old")
        remove(old)
        if path.exists():
            path.rename(old)
        new.rename(path)
        remove(old)
    else:
        new.replace(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, where there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

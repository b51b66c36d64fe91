"""Files that are there as a whole or not at all."""

import os
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

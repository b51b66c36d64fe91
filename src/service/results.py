"""The results on disk: one .npz file a job."""

import io
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from src.service.store import Store
from src.utils.atomic import atomic_write


class Results:
    """The folder of the results.

    A name comes from the database alone, never from a request.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, job: str, **arrays: Any) -> tuple[str, int]:
        """Write the arrays of a job that are not None; returns the name of the file and its size in bytes."""
        path = self.folder / f"{job}.npz"
        with atomic_write(path) as partial:
            np.savez(partial, **{name: array for name, array in arrays.items() if array is not None})
        return path.name, path.stat().st_size

    def read(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of a file.

        Raises:
            FileNotFoundError: if it was removed.
        """
        with np.load(self.folder / name, allow_pickle=False) as file:
            return dict(file)

    def delete(self, names: set[str]) -> None:
        """Remove files."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def names(self) -> set[str]:
        """The names of all files, those half written included."""
        return {path.name for path in self.folder.iterdir()}


@dataclass
class Retention:
    """How long results are kept.

    Args:
        days: the greatest age of a job since its end.
        gigabytes: of all results together; the oldest go first.
        every: seconds between looks.
    """

    days: float = 30.0
    gigabytes: float = 10.0
    every: float = 60.0
    looked: float = field(default=0.0, init=False)

    def keep(self, store: Store, results: Results) -> None:
        """Delete what is beyond the limits, if it is time to look again."""
        now = time.monotonic()
        if self.looked and now - self.looked < self.every:
            return
        self.looked = now
        gone = store.outdated(self.days, int(self.gigabytes * 1e9))
        if gone:
            store.delete([row.id for row in gone])
            results.delete({row.result for row in gone if row.result})

    def tidy(self, store: Store, results: Results) -> None:
        """Delete files that no job knows, left by a kill; only before jobs are computed, which write such files."""
        if store.alone:
            results.delete(results.names() - store.results())


def pack(**arrays: np.ndarray | None) -> bytes:
    """Arrays as the bytes of a .npz file."""
    file = io.BytesIO()
    np.savez(file, **{name: array for name, array in arrays.items() if array is not None})  # type: ignore[arg-type]
    return file.getvalue()


def unpack(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of the bytes of a .npz file."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return dict(file)

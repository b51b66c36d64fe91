"""Arrays opened once: their files, the part of the data of each sample, and the statistics of the parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from src.data import array_fields as known
from src.data.array_files import open_arrays
from src.data.array_rows import Rows
from src.data.array_samples import Choice, Opened
from src.data.array_statistics import Statistics, measure
from src.data.identity import digest
from src.data.index import mtime_and_size
from src.data.samples import split, val_count
from src.utils.errors import UserError, printable

SOME = 64  # samples of a large array whose bytes identify it
WHOLE = 1 << 26  # bytes up to which all do


@dataclass
class ArrayParts:
    """The opened files of some data.

    Attributes:
        files: root, and val_root if there is one.
        part: of each sample of each file, 0 train, 1 val, 2 test; others are in no part.
        statistics: of the training and of the validation samples.
    """

    files: Sequence[Opened]
    part: Sequence[np.ndarray]
    statistics: Statistics

    def of(self, part: int) -> tuple[Opened, np.ndarray]:
        """The file of a part of the data, and the sorted indices of its samples there."""
        i = 1 if part == 1 and len(self.files) > 1 else 0
        return self.files[i], np.flatnonzero(self.part[i] == part)

    def identity(self) -> str:
        """A hash of the samples, or of some of many, and of what is known of them."""
        return digest(*(v for file, part in zip(self.files, self.part, strict=True) for v in content(file, part)))


def open_parts(
    root: str, val_root: str | None, choice: Choice, val_fraction: float, per_channel: bool, seed: int
) -> ArrayParts:
    """Open files of arrays, divide their samples and measure them; again only if the files have changed.

    Raises:
        UserError: if they cannot be used, or do not fit each other.
    """
    stamps = tuple(mtime_and_size(Path(path)) for path in (root, val_root) if path and Path(path).exists())
    return _open_parts(root, val_root, choice, val_fraction, per_channel, seed, stamps)


def forget_parts() -> None:
    """Forget the files that were opened last."""
    _open_parts.cache_clear()


@lru_cache(maxsize=1)
def _open_parts(
    root: str, val_root: str | None, choice: Choice, val_fraction: float, per_channel: bool, seed: int, stamps: Any
) -> ArrayParts:
    first = Opened(open_arrays(Path(root), "data.root"), choice)
    if val_root is None:
        part = divide(first, val_fraction, seed)
        return ArrayParts([first], [part], measure(first.rows, part, per_channel, f"data.root={root}"))
    second = Opened(open_arrays(Path(val_root), "data.val_root"), choice)
    if second.rows.shape[1:] != first.rows.shape[1:]:
        shapes = first.rows.shape[1:], second.rows.shape[1:]
        raise UserError(f"data.val_root={val_root} must hold samples of shape {shapes[0]}, got {shapes[1]}")
    check_alike(first, second, val_root)
    parts = [np.zeros(len(first.rows), np.uint8), np.ones(len(second.rows), np.uint8)]
    statistics = measure(first.rows, parts[0], per_channel, f"data.root={root}")
    statistics.val = measure(second.rows, parts[1], per_channel, f"data.val_root={val_root}").val
    return ArrayParts([first, second], parts, statistics)


def divide(file: Opened, val_fraction: float, seed: int) -> np.ndarray:
    """The part of each sample: as the file says, by groups, by time, or at random."""
    n = len(file.rows)
    if file.split is not None:
        return file.split
    if file.windows is not None and file.group is None:
        return known.parts_of_one_recording(file.windows.start, file.windows.window, val_fraction)
    n_val = val_count(n, val_fraction)
    if file.group is not None:
        return known.parts_by_group(file.group, n_val, seed)
    part = np.zeros(n, np.uint8)
    part[split(n, n_val, seed)[1].numpy()] = 1
    return part


def check_alike(first: Opened, second: Opened, name: str) -> None:
    """Give the validation samples the classes and the length of texts of the training samples."""
    if first.label is not None and second.label is not None:
        if unknown := sorted(set(second.class_names) - set(first.class_names)):
            raise UserError(f"data.val_root={name} has classes that data.root lacks, such as {printable(unknown[0])}")
        place = torch.tensor([first.class_names.index(c) for c in second.class_names])
        second.label = place[second.label]
    if first.text is not None and second.text is not None:
        length = max(first.text.shape[1], second.text.shape[1])
        first.text, second.text = (pad(v, (0, length - v.shape[1]), value=-1) for v in (first.text, second.text))


def content(file: Opened, part: np.ndarray) -> list[Tensor | str]:
    """What identifies a file: its shape, samples and fields, or some of them, and the parts."""
    rows, n = file.rows, len(file.rows)
    some = n if rows.sample_bytes * n <= WHOLE else SOME
    chosen = np.unique(np.linspace(0, n - 1, min(n, some)).astype(int))
    found: list[Tensor | str] = [f"{rows.shape} {rows.dtype}", torch.from_numpy(part[chosen])]
    for values in (rows, *file.fields().values()):
        taken = values[chosen] if isinstance(values, Rows) else values[torch.from_numpy(chosen)].numpy()
        found.append(torch.from_numpy(np.ascontiguousarray(taken).astype(taken.dtype.newbyteorder("=")).view(np.uint8)))
    return found

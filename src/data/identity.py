"""Fingerprints that identify data independently of where they are stored."""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.data.image_files import ArchiveFiles, Files

SOME = 16  # samples whose means are compared
SIZES = 1000  # files whose size is read; on a network disk each takes a round trip


def some_samples(data: Any) -> list[float]:
    """The means of evenly spaced samples, for each tensor of a batch.

    Numbers instead of a hash, since computed data differ in their last bits between machines. Empty if the samples
    differ at each access.
    """
    rows = torch.linspace(0, len(data) - 1, min(SOME, len(data))).long()
    with torch.random.fork_rng(devices=[]):
        first, again = ([v for _, v in sorted(batch.items())] for batch in (data[0, rows], data[0, rows]))
    if not all(map(torch.equal, first, again)):
        return []
    return [round(mean, 6) for part in first for mean in part.double().reshape(len(rows), -1).mean(1).tolist()]


def digest(*parts: Tensor | str | Sequence[str]) -> str:
    """A hash of tensors and texts, 16 hexadecimal digits."""
    found = blake2b(digest_size=8)
    for part in parts:
        found.update(part.contiguous().numpy().data if isinstance(part, Tensor) else repr(part).encode())
    return found.hexdigest()


def digest_of_files(files: Files) -> str:
    """A hash of the names of all images, relative to their root, and the sizes of some, evenly spaced."""
    rows = torch.linspace(0, len(files) - 1, min(SIZES, len(files))).long().unique()
    if isinstance(files, ArchiveFiles):
        sizes = files.where[rows, 2].tolist()
    else:
        sizes = [(Path(files.root) / files.name(i)).stat().st_size for i in rows.tolist()]
    label = [] if files.label is None else [files.label]
    return digest(files.folders, files.folder, files.text, files.ends, torch.tensor(sizes), *label)

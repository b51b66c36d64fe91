"""A cache of file lists for the next start."""

import os
import re
import time
from contextlib import suppress
from dataclasses import fields
from hashlib import blake2b
from pathlib import Path

import torch

from src.data.image_files import ArchiveFiles, Files
from src.utils.atomic import atomic_write
from src.utils.errors import UserError
from src.utils.files import Damaged, read_tensors

VERSION = 2  # of the file format
TENSOR = torch.Tensor
KEPT = {"version": int, "root": str, "folders": [str], "folder": TENSOR, "text": TENSOR, "ends": TENSOR,
        "stamps": {"*": tuple}, "label": (TENSOR, type(None)), "complaints": (dict, type(None)), "passed_over": str,
        "archives?": [str], "where?": TENSOR}  # fmt: skip
SETTLED = 2.0  # seconds: a more recent change could be followed by another with the same time stamp


class FileIndex:
    """A cache of the file lists of large folders and archives, one file each.

    It is valid while every folder or archive has the same size and modification time. Files that are added, removed or
    renamed change their folder; one that is overwritten in place does not, and needs `rescan`.

    Args:
        folder: the folder of the cache; None for no cache.
        rescan: True to scan again.
    """

    def __init__(self, folder: str | None, rescan: bool):
        self.folder, self.rescan = folder, rescan

    def load(self, root: Path) -> Files | None:
        """Load the cached list of a root; None if there is none or the root has changed."""
        if self.folder is None or self.rescan:
            return None
        with suppress(Damaged, OSError, KeyError):  # missing, damaged, or a folder is gone: scan again
            kept = read_tensors(self._file(root), KEPT, "It is rebuilt")
            if kept.pop("version") == VERSION and all(mtime_and_size(p) == s for p, s in kept["stamps"].items()):
                kind = ArchiveFiles if "archives" in kept else Files
                return kind(**{field.name: kept[field.name] for field in fields(kind)})
        return None

    def save(self, root: Path, files: Files) -> None:
        """Write the list to the cache, unless the root was changed just now or the cache cannot be written."""
        if self.folder is not None and max(s[0] for s in files.stamps.values()) < (time.time() - SETTLED) * 1e9:
            with suppress(OSError, UserError), atomic_write(self._file(root)) as file:
                torch.save({"version": VERSION, **vars(files)}, file)

    def _file(self, root: Path) -> Path:
        name = re.sub(r"[^\w.-]+", "_", root.name)[:40]
        place = blake2b(os.fsencode(root.absolute()), digest_size=8).hexdigest()
        return Path(str(self.folder), f"{name}-{place}.pt")


def mtime_and_size(path: Path | str) -> tuple[int, int]:
    """The modification time of a folder or file in nanoseconds, and its size."""
    return mtime_and_size_of(Path(path).stat())


def mtime_and_size_of(status: os.stat_result) -> tuple[int, int]:
    """The same from the status of a folder or file."""
    return status.st_mtime_ns, status.st_size

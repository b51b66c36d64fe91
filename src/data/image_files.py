"""Lists of image files, in a tree of folders or in zip and tar archives."""

import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO, FileIO
from pathlib import Path
from typing import BinaryIO, Literal

import torch
from torch import Tensor

from src.data.names import part_of
from src.utils.budget import LARGEST_IMAGE
from src.utils.errors import UserError

AHEAD = 1 << 20  # bytes per request for read-ahead
LARGEST = 4 << 30  # bytes of an archive that is read from end to end; a larger one would not stay in memory


@dataclass
class Files:
    """The images in a folder, as a few tensors, so that a million of them can be shared by processes and saved.

    Args:
        root: the folder.
        folders: the folders with images, relative, sorted, with a slash at the end; "" is the root itself.
        folder: (N,) index of each image's folder.
        text, ends: file names in UTF-8, concatenated as (bytes,) uint8, and the end of each in it, (N,).
        stamps: modification time and size of each folder and archive scanned, by path, to detect changes.
        label: (N,) int64, the classes stored in an archive, or None.
        complaints: errors of unreadable images by index; None before the images are checked.
        passed_over: unused files beside the images, as text.
    """

    root: str
    folders: list[str]
    folder: Tensor
    text: Tensor
    ends: Tensor
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict)
    label: Tensor | None = None
    complaints: dict[int, str] | None = None
    passed_over: str = ""

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, i: int) -> str:
        """The path of image i relative to the root, with forward slashes."""
        start = int(self.ends[i - 1]) if i else 0
        return self.folders[int(self.folder[i])] + os.fsdecode(self.text[start : int(self.ends[i])].numpy().tobytes())

    def open(self, i: int, most: int | None = None) -> BinaryIO:
        """Open image i; only its first `most` bytes are needed, if given."""
        file = (Path(self.root) / self.name(i)).open("rb")
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST_IMAGE:
            file.close()
            raise OSError(f"{size:,} bytes, more than {LARGEST_IMAGE:,}")
        return file

    def archive(self, indices: Tensor) -> Tensor | None:
        """The index (N,) of the archive of each image; None for files in folders."""
        return None


@dataclass
class ArchiveFiles(Files):
    """The images in archives, which are read at stored offsets.

    Args:
        archives: names of the archives in the root.
        where: (N, 4) int64: index of the archive, offset and size in bytes, and the unpacked size, 0 if not deflated.
    """

    archives: list[str] = field(default_factory=list)
    where: Tensor = field(default_factory=lambda: torch.empty(0, 4, dtype=torch.int64))

    def name(self, i: int) -> str:
        name = super().name(i)
        return name if len(self.archives) == 1 else f"{self.archives[int(self.where[i, 0])]}/{name}"

    def open(self, i: int, most: int | None = None) -> BinaryIO:
        archive, offset, size, unpacked = self.where[i].tolist()
        if max(size, unpacked) > LARGEST_IMAGE:
            raise OSError(f"{max(size, unpacked):,} bytes, more than {LARGEST_IMAGE:,}")
        with FileIO(f"{self.root}/{self.archives[archive]}") as file:
            file.seek(offset)
            data = file.read(size if most is None else min(size, most))
        if not unpacked:
            return BytesIO(data)
        return BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, unpacked if most is None else most))

    def archive(self, indices: Tensor) -> Tensor | None:
        return self.where[indices, 0]

    def read_ahead(self, i: int) -> None:
        """Ask the system to read the whole archive of image i ahead, unless this was done recently."""
        _read_ahead(f"{self.root}/{self.archives[int(self.where[i, 0])]}")


@lru_cache(maxsize=64)
def _read_ahead(path: str) -> None:
    """Read a file ahead into the page cache, so that reading images at random needs no seeks."""
    size = Path(path).stat().st_size
    if not hasattr(os, "posix_fadvise") or size > LARGEST:
        return
    with FileIO(path) as file:
        for start in range(0, size, AHEAD):  # the system may truncate longer requests
            os.posix_fadvise(file.fileno(), start, AHEAD, os.POSIX_FADV_WILLNEED)


def entry_kind(entry: os.DirEntry[str]) -> Literal["folder", "file", "other"]:
    """The kind of an entry or of the target of a link; a broken link counts as a file, which is unreadable."""
    try:
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() or not Path(entry.path).exists() else "other"
    except OSError:  # a link to itself
        return "file"


def split_names(names: Sequence[str]) -> tuple[list[str], Tensor, Tensor, Tensor]:
    """Split relative paths into the fields folders, folder, text and ends of `Files`."""
    cuts = [name.rfind("/") + 1 for name in names]
    folder_of = [name[:cut] for name, cut in zip(names, cuts, strict=True)]
    folders = sorted(set(folder_of))
    number = {folder: i for i, folder in enumerate(folders)}
    inner = [os.fsencode(name[cut:]) for name, cut in zip(names, cuts, strict=True)]
    text = torch.frombuffer(bytearray(b"".join(inner)) or bytearray(1), dtype=torch.uint8)
    ends = torch.tensor([len(name) for name in inner], dtype=torch.int64).cumsum(0)
    return folders, torch.tensor([number[folder] for folder in folder_of], dtype=torch.int32), text, ends


@dataclass
class Subset:
    """Some of the images of a folder or archive.

    Args:
        files: all images.
        indices: (N,) int64, the selected ones.
        prefix: common prefix of their folders, which is ignored, such as "cifar/train/".
    """

    files: Files
    indices: Tensor
    prefix: str = ""

    @classmethod
    def of(cls, files: Files) -> "Subset":
        """Select all images."""
        return cls(files, torch.arange(len(files)))

    def __len__(self) -> int:
        return len(self.indices)

    def tops(self) -> tuple[list[str], Tensor]:
        """The top-level folders below the prefix, sorted, "" for none, and the index (N,) of each image's folder."""
        inner = {i: self.files.folders[i].removeprefix(self.prefix).split("/")[0] for i in self._used()}
        names = sorted(set(inner.values()))
        number = {name: i for i, name in enumerate(names)}
        of_folder = torch.tensor([number.get(inner.get(i, ""), 0) for i in range(len(self.files.folders))])
        return names, of_folder[self.files.folder[self.indices]]

    def _used(self) -> list[int]:
        """The indices of the folders of these images."""
        return self.files.folder[self.indices].unique().tolist()

    def below(self, folder: str) -> "Subset":
        """Select the images in a top-level folder."""
        prefix = f"{self.prefix}{folder}/"
        inside = torch.tensor([name.startswith(prefix) for name in self.files.folders])
        return Subset(self.files, self.indices[inside[self.files.folder[self.indices]]], prefix)

    def only(self, chosen: Tensor) -> "Subset":
        """Select by position (n,) among these images."""
        return Subset(self.files, self.indices[chosen], self.prefix)

    def unwrapped(self, keep: Iterable[str] = ()) -> "Subset":
        """Add to the prefix the folders that contain all images, such as the single top folder of an archive.

        Folders that contain images directly, or are in `keep`, are not added.
        """
        inner = [self.files.folders[i].removeprefix(self.prefix).split("/")[:-1] for i in self._used()]
        first, last, depth = min(inner), max(inner), max(map(len, inner))
        around = 0
        while around < min(len(first), depth - 1) and first[around] == last[around] and first[around] not in keep:
            around += 1
        return Subset(self.files, self.indices, self.prefix + "".join(f"{name}/" for name in first[:around]))

    def split(self) -> tuple["Subset", "Subset", str] | None:
        """Split by the names of top-level folders; None if none are named for training and validation.

        Returns training images, validation images and the unused folders as text. Test images serve as validation
        images if there are no others.

        Raises:
            UserError: if several folders are named for the same part.
        """
        tops, top = self.tops()
        named: dict[str | None, list[str]] = {}
        for name in tops:
            named.setdefault(part_of(name), []).append(name)
        chosen = ["train", "val" if "val" in named else "test"]
        if not set(chosen) <= named.keys():
            return None
        for part in chosen:
            if len(named[part]) > 1:
                raise UserError(
                    f"{self.files.root}/{self.prefix} must have one folder for {part}, got {len(named[part])}, "
                    f"{' and '.join(named[part])}; set data.root and data.val_root to those to use, or rename one"
                )
        counts = top.bincount(minlength=len(tops)).tolist()
        train, val = (named[part][0] for part in chosen)
        others = ", ".join(
            f"{name or 'the folder itself'} ({n:,} images)"
            for name, n in zip(tops, counts, strict=True)
            if name not in (train, val)
        )
        return self.below(train), self.below(val), others

    def held_out(self) -> list[str]:
        """The folders of these images whose names suggest validation or test data."""
        inner = {self.files.folders[i].removeprefix(self.prefix) for i in self._used()}
        return sorted(name for name in inner if any(part_of(word) in ("val", "test") for word in name.split("/")))

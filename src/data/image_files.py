"""Where image files lie: in the folders below another one, or in zip and tar archives."""

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

AHEAD = 1 << 20  # bytes that the system is asked for at a time
LARGEST = 4 << 30  # bytes of an archive that is read from end to end; a larger one would not stay in memory


@dataclass
class Files:
    """Images in a folder; a million of them in a few tensors, which processes can share and a file can keep.

    Args:
        root: the folder.
        folders: those that images lie in, relative, sorted, with a slash at the end; "" is the root itself.
        folder: (N,) the number of each image's folder.
        text, ends: names in their folders, in UTF-8, all in one (bytes,) uint8; and where each (N,) ends in it.
        stamps: of all that was looked through, to see whether it has changed.
        label: (N,) int64, the classes that an archive gives by itself, or None.
        complaints: of the images that cannot be read; None before they have been looked at.
        passed_over: what lies beside the images and is not used, in words.
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
        """Relative, with forward slashes."""
        start = int(self.ends[i - 1]) if i else 0
        return self.folders[int(self.folder[i])] + os.fsdecode(self.text[start : int(self.ends[i])].numpy().tobytes())

    def open(self, i: int, most: int | None = None) -> BinaryIO:
        """An image, or no more than what is asked for of its first bytes, where that saves time."""
        file = (Path(self.root) / self.name(i)).open("rb")
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST_IMAGE:
            file.close()
            raise OSError(f"{size:,} bytes, more than {LARGEST_IMAGE:,}")
        return file

    def archive(self, indices: Tensor) -> Tensor | None:
        """The number (N,) of the archive that each image lies in, or None."""
        return None


@dataclass
class ArchiveFiles(Files):
    """Images in archives, which are read at the places where the images lie.

    Args:
        archives: their names in the root.
        where: (N, 4) int64: the number of the archive, offset and size in bytes, and, if deflated, the size unpacked.
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
        """Let the system read the archive of an image from end to end, if it is none of the last ones."""
        _read_ahead(f"{self.root}/{self.archives[int(self.where[i, 0])]}")


@lru_cache(maxsize=64)
def _read_ahead(path: str) -> None:
    """Images are then picked from memory, so that disks need not seek."""
    size = Path(path).stat().st_size
    if not hasattr(os, "posix_fadvise") or size > LARGEST:
        return
    with FileIO(path) as file:
        for start in range(0, size, AHEAD):  # the system may cut longer wishes short
            os.posix_fadvise(file.fileno(), start, AHEAD, os.POSIX_FADV_WILLNEED)


def entry_kind(entry: os.DirEntry[str]) -> Literal["folder", "file", "other"]:
    """What an entry is, or leads to; a broken link counts as a file, which then cannot be read."""
    try:
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() or not Path(entry.path).exists() else "other"
    except OSError:  # a link to itself
        return "file"


def split_names(names: Sequence[str]) -> tuple[list[str], Tensor, Tensor, Tensor]:
    """The folders, folder, text and ends of Files."""
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
        files: where they lie.
        indices: which, (N,) int64.
        prefix: what the folders of all begin with that says nothing of the image, such as "cifar/train/".
    """

    files: Files
    indices: Tensor
    prefix: str = ""

    @classmethod
    def of(cls, files: Files) -> "Subset":
        """All of them."""
        return cls(files, torch.arange(len(files)))

    def __len__(self) -> int:
        return len(self.indices)

    def tops(self) -> tuple[list[str], Tensor]:
        """The top-level folders below the prefix, sorted, and the number (N,) of each image's; "" stands for none."""
        inner = {i: self.files.folders[i].removeprefix(self.prefix).split("/")[0] for i in self._used()}
        names = sorted(set(inner.values()))
        number = {name: i for i, name in enumerate(names)}
        of_folder = torch.tensor([number.get(inner.get(i, ""), 0) for i in range(len(self.files.folders))])
        return names, of_folder[self.files.folder[self.indices]]

    def _used(self) -> list[int]:
        """The numbers of the folders that these images lie in."""
        return self.files.folder[self.indices].unique().tolist()

    def below(self, folder: str) -> "Subset":
        """The images in one of the top-level folders."""
        prefix = f"{self.prefix}{folder}/"
        inside = torch.tensor([name.startswith(prefix) for name in self.files.folders])
        return Subset(self.files, self.indices[inside[self.files.folder[self.indices]]], prefix)

    def only(self, chosen: Tensor) -> "Subset":
        """The images at the places (n,) among these."""
        return Subset(self.files, self.indices[chosen], self.prefix)

    def unwrapped(self, keep: Iterable[str] = ()) -> "Subset":
        """The same images, seen from inside a folder around all of them, such as archives tend to have.

        A folder with nothing but images in it is not looked through, nor is one of those to keep.
        """
        inner = [self.files.folders[i].removeprefix(self.prefix).split("/")[:-1] for i in self._used()]
        first, last, depth = min(inner), max(inner), max(map(len, inner))
        around = 0
        while around < min(len(first), depth - 1) and first[around] == last[around] and first[around] not in keep:
            around += 1
        return Subset(self.files, self.indices, self.prefix + "".join(f"{name}/" for name in first[:around]))

    def split(self) -> tuple["Subset", "Subset", str] | None:
        """Training and validation images, where top-level folders are named so, and which others are not used.

        Test images are for validation where there are no others, and are not used otherwise.
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
                    f"{self.files.root}/{self.prefix} has {len(named[part])} folders for one part of the data, "
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
        """The folders of these images that are named as those of validation and test images are."""
        inner = {self.files.folders[i].removeprefix(self.prefix) for i in self._used()}
        return sorted(name for name in inner if any(part_of(word) in ("val", "test") for word in name.split("/")))

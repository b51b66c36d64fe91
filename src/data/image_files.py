"""Where image files lie: in the folders below another one, or in a zip archive."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from zipfile import ZipFile, is_zipfile

from src.utils.errors import UserError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")


class Files(Protocol):
    """Where images lie; it can be sent to another process."""

    names: list[str]  # relative, with forward slashes, sorted

    def open(self, name: str) -> BinaryIO: ...


class Folder:
    """The images below a folder."""

    def __init__(self, root: Path):
        self.root = root
        walk = os.walk(root, followlinks=True)
        paths = (Path(folder, name).relative_to(root).as_posix() for folder, _, names in walk for name in names)
        self.names = sorted(filter(_is_image, paths))

    def open(self, name: str) -> BinaryIO:
        return (self.root / name).open("rb")


class Archive:
    """The images in a zip file, which each process opens for itself."""

    def __init__(self, path: Path):
        self.path = path
        self._opened: tuple[int, ZipFile] | None = None
        self.names = sorted(filter(_is_image, self._zip().namelist()))

    def open(self, name: str) -> BinaryIO:
        return BytesIO(self._zip().read(name))

    def _zip(self) -> ZipFile:
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), ZipFile(self.path)
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}


def find_images(root: Path, key: str) -> Files:
    """The images in a folder or zip file; the key is the setting that errors name.

    Raises:
        UserError: where it does not exist, is neither folder nor zip file, or holds no image.
    """
    if not root.exists():
        raise UserError(f"{key}={root} does not exist; set {key}=FOLDER, or a zip file, with the images")
    if root.is_file() and not is_zipfile(root):
        raise UserError(f"{key}={root} is neither a folder nor a zip file; set {key}=FOLDER with the images")
    files: Files = Archive(root) if root.is_file() else Folder(root)
    if not files.names:
        raise UserError(f"{key}={root} holds no image; files that end in {', '.join(ENDINGS)} are looked for")
    return files


def _is_image(name: str) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
    return name.lower().endswith(ENDINGS) and not hidden


@dataclass
class Part:
    """Some of the images of a folder or archive.

    Args:
        files: where they lie.
        names: which, as files.names has them.
        prefix: what all names begin with that says nothing of the image, such as "cifar/train/".
    """

    files: Files
    names: list[str]
    prefix: str = ""

    def folders(self) -> list[str]:
        """The top-level folder below the prefix of each image; "" where it lies in none."""
        inner = (name.removeprefix(self.prefix) for name in self.names)
        return [name.split("/")[0] if "/" in name else "" for name in inner]

    def below(self, folder: str) -> "Part":
        """The images in one of the top-level folders."""
        prefix = f"{self.prefix}{folder}/"
        return Part(self.files, [name for name in self.names if name.startswith(prefix)], prefix)

    def only(self, indices: Sequence[int]) -> "Part":
        """The images at the indices."""
        return Part(self.files, [self.names[i] for i in indices], self.prefix)

    def unwrapped(self, keep: Iterable[str] = ()) -> "Part":
        """The same images, seen from inside a folder around all of them, such as archives tend to have.

        A folder with nothing but images in it is not looked through, nor is one of those to keep.
        """
        tops, depth = set(self.folders()), max(name.removeprefix(self.prefix).count("/") for name in self.names)
        if len(tops) > 1 or depth < 2 or tops & set(keep):
            return self
        return self.below(tops.pop()).unwrapped(keep)

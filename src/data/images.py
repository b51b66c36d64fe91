"""Image files of any format, decoded to one shape."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from math import prod
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from src.data.image_files import ArchiveFiles, Files, Subset
from src.data.workers import cpus, map_in_workers
from src.utils.errors import UserError, printable
from src.utils.images import plain, why_unreadable

CHUNK, CHUNK_BYTES = 256, 1 << 20  # largest result of a worker: images, and bytes
HEAD = 1 << 14  # bytes that usually contain the header of an image


class Unreadable(UserError):
    """An image that cannot be decoded; the message is its name and the reason.

    A DataLoader re-raises the errors of its workers with the traceback as message; only its last line is kept.
    """

    def __init__(self, message: str):
        super().__init__(message.strip().splitlines()[-1].removeprefix(f"{__name__}.{type(self).__name__}: "))


@contextmanager
def _complaining(files: Files, i: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise Unreadable(f"{printable(files.name(i))} ({why_unreadable(error)})") from error


class Decoder:
    """A decoder of images to uint8 (C, H, W): first frame, upright, on white, 8 bits, resized with antialiasing.

    Args:
        channels: 1 for grayscale, 3 for RGB.
        size: (H, W).
        resize: `crop` fills the shape and crops the rest evenly; `stretch` changes the proportions.
    """

    def __init__(self, channels: int, size: Sequence[int], resize: Literal["crop", "stretch"]):
        self.mode: Literal["L", "RGB"] = "L" if channels == 1 else "RGB"
        self.height, self.width = size
        self.resize = resize

    def __call__(self, files: Files, i: int) -> Tensor:
        """Decode image i of the files; raises Unreadable with its name."""
        with _complaining(files, i), files.open(i) as file, Image.open(file) as image:
            return self._decode(image)

    def _decode(self, image: Image.Image) -> Tensor:
        size, filter_ = (self.width, self.height), Image.Resampling.LANCZOS
        # Lets a JPEG be decoded at a fraction of its size, as long as that is still twice what is needed.
        image.draft(None, (2 * max(size),) * 2)
        image = plain(image, self.mode)
        if image.size != size:
            image = ImageOps.fit(image, size, filter_) if self.resize == "crop" else image.resize(size, filter_)
        pixels = torch.from_numpy(np.array(image))
        return pixels[None] if self.mode == "L" else pixels.permute(2, 0, 1)


class OnDisk:
    """Images (B, C, H, W) uint8, decoded each time that they are asked for.

    Args:
        part: which images.
        decoder: decodes one.
        shape: (C, H, W).
        ahead: True to read the whole archive of an image ahead, if others in it are needed soon.
    """

    def __init__(self, part: Subset, decoder: Decoder, shape: Sequence[int], ahead: bool = False):
        self.part, self.decoder, self.shape, self.ahead = part, decoder, tuple(shape), ahead

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, indices: Tensor) -> Tensor:
        x = torch.empty(len(indices), *self.shape, dtype=torch.uint8)
        for row, i in zip(x, indices.tolist(), strict=True):
            try:
                row.copy_(self.decode(i))
            except Unreadable as error:
                raise Unreadable(f"{error} cannot be decoded; repair or remove this image") from error
        return x

    def only(self, places: Tensor) -> "OnDisk":
        """Select by position (n,) among these images."""
        return OnDisk(self.part.only(places), self.decoder, self.shape, self.ahead)

    def decode(self, i: int) -> Tensor:
        """Decode one image (C, H, W)."""
        files, i = self.part.files, int(self.part.indices[i])
        if self.ahead and isinstance(files, ArchiveFiles):
            files.read_ahead(i)
        return self.decoder(files, i)


def find_unreadable(files: Files) -> dict[int, str]:
    """Check the header of each image, and return the errors of invalid ones by index."""
    found: dict[int, str] = {}
    for _, _, bad in _in_chunks(partial(_look, files), len(files), CHUNK, "Checking the images"):
        found |= bad
    return found


def _look(files: Files, i: int) -> Tensor:
    """Check the header of an image; raises Unreadable, and returns an empty tensor (0,) otherwise."""
    with suppress(Exception), files.open(i, most=HEAD) as file, Image.open(file):
        return torch.empty(0)
    with _complaining(files, i), files.open(i) as file, Image.open(file):  # metadata may precede the size
        return torch.empty(0)


def decode_all(images: OnDisk) -> tuple[Tensor, Tensor, list[str]]:
    """Decode all images: the readable ones (n, C, H, W) uint8, their positions (n,), and the errors of the others."""
    x = torch.empty(len(images), *images.shape, dtype=torch.uint8)
    size = max(1, min(CHUNK, CHUNK_BYTES // prod(images.shape)))
    good: list[int] = []
    complaints: list[str] = []
    for part, indices, bad in _in_chunks(images.decode, len(images), size, "Decoding the images"):
        if indices:
            x[len(good) : len(good) + len(indices)] = part
        good += indices
        complaints += bad.values()
    return x[: len(good)], torch.tensor(good, dtype=torch.int64), complaints


Chunk = tuple[Tensor, list[int], dict[int, str]]


def _in_chunks(work: Callable[[int], Tensor], n: int, size: int, title: str) -> Iterator[Chunk]:
    """Apply `work` to 0 ... n - 1 in order, with a progress bar if it takes long.

    Uses processes, because small images spend most of their time in Pillow's Python code, which holds the GIL.
    """
    chunks = [range(start, min(start + size, n)) for start in range(0, n, size)]
    with tqdm(total=n, desc=title, delay=2, mininterval=0.5, leave=False) as bar:
        for chunk in map_in_workers(partial(_chunk, work), chunks, min(cpus(), 8) if n >= 1000 else 0):
            yield chunk
            bar.update(len(chunk[1]) + len(chunk[2]))


def _chunk(work: Callable[[int], Tensor], indices: Sequence[int]) -> Chunk:
    """Apply `work` to some indices: the stacked results, their indices, and the errors by index."""
    made: dict[int, Tensor] = {}
    bad: dict[int, str] = {}
    for i in indices:
        try:
            made[i] = work(i)
        except Unreadable as error:
            bad[i] = str(error)
    return torch.stack(list(made.values())) if made else torch.empty(0), list(made), bad

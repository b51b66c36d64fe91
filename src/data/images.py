"""Image files of any kind, decoded to one shape."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Literal

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from src.data.image_files import Files, Part
from src.utils.errors import UserError

CHUNK, CHUNK_BYTES = 256, 1 << 20  # what a worker hands over at a time, at most


class Unreadable(UserError):
    """An image that cannot be decoded; the message is its name and what is wrong.

    A DataLoader hands on the errors of its workers with the traceback as message; only the last line of it is kept.
    """

    def __init__(self, message: str):
        super().__init__(message.strip().splitlines()[-1].removeprefix(f"{__name__}.{type(self).__name__}: "))


@contextmanager
def _complaining(name: str) -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:  # whose own message is about an object in memory
        raise Unreadable(f"{name} (no image of a known kind)") from error
    except Exception as error:  # damaged files raise anything, from OSError to struct.error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Unreadable(f"{name} ({reason})") from error


class Decoder:
    """Reads an image as uint8 (C, H, W): the first frame, upright, on white, at 8 bits, resized with antialiasing.

    Args:
        channels: 1 for grey, 3 for RGB.
        size: (H, W).
        resize: `crop` fills the shape and cuts off what is left over, evenly; `stretch` changes the proportions.
    """

    def __init__(self, channels: int, size: Sequence[int], resize: Literal["crop", "stretch"]):
        self.mode = "L" if channels == 1 else "RGB"
        self.height, self.width = size
        self.resize = resize

    def __call__(self, files: Files, name: str) -> Tensor:
        """Raises Unreadable, naming the file."""
        with _complaining(name), files.open(name) as file, Image.open(file) as image:
            return self._decode(image)

    def _decode(self, image: Image.Image) -> Tensor:
        size, filter_ = (self.width, self.height), Image.Resampling.LANCZOS
        # Lets a JPEG be decoded at a fraction of its size, as long as that is still twice what is needed.
        image.draft(None, (2 * max(size),) * 2)
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
        image = _on_white(image)
        if image.mode != self.mode:
            image = image.convert(self.mode)
        if image.size != size:
            image = ImageOps.fit(image, size, filter_) if self.resize == "crop" else image.resize(size, filter_)
        pixels = torch.from_numpy(np.array(image))
        return pixels[None] if self.mode == "L" else pixels.permute(2, 0, 1)


def _on_white(image: Image.Image) -> Image.Image:
    """The image at 8 bits, without transparency."""
    if image.mode.startswith(("I", "F")):  # 16-bit grey, which Pillow's own conversion clips
        grey = np.asarray(image).astype(np.float64) / 257
        return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


class OnDisk:
    """Images (B, C, H, W) uint8, decoded each time that they are asked for.

    Args:
        part: which images.
        decoder: decodes one.
        shape: (C, H, W).
    """

    def __init__(self, part: Part, decoder: Decoder, shape: Sequence[int]):
        self.part, self.decoder, self.shape = part, decoder, tuple(shape)

    def __len__(self) -> int:
        return len(self.part.names)

    def __getitem__(self, indices: Tensor) -> Tensor:
        x = torch.empty(len(indices), *self.shape, dtype=torch.uint8)
        for row, i in zip(x, indices.tolist(), strict=True):
            try:
                row.copy_(self.decode(i))
            except Unreadable as error:
                raise Unreadable(f"{error} cannot be decoded; mend or remove this image") from error
        return x

    def decode(self, i: int) -> Tensor:
        """One image (C, H, W)."""
        return self.decoder(self.part.files, self.part.names[i])

    def look(self, i: int) -> Tensor:
        """Nothing (0,), but Unreadable is raised where the head of the image is damaged."""
        name = self.part.names[i]
        with _complaining(name), self.part.files.open(name) as file, Image.open(file):
            return torch.empty(0)


def find_readable(images: OnDisk) -> tuple[OnDisk, list[int], list[str]]:
    """Look at the head of each image: those that have a good one, their indices, and what is wrong with the others."""
    good: list[int] = []
    bad: list[str] = []
    for _, indices, complaints in _in_chunks(images.look, len(images), CHUNK, "Looking at the images"):
        good += indices
        bad += complaints
    return OnDisk(images.part.only(good), images.decoder, images.shape), good, bad


def decode_all(images: OnDisk) -> tuple[Tensor, list[int], list[str]]:
    """Decode all images: those that can be, (N, C, H, W) uint8, their indices, and what is wrong with the others."""
    x = torch.empty(len(images), *images.shape, dtype=torch.uint8)
    size = max(1, min(CHUNK, CHUNK_BYTES // prod(images.shape)))
    good: list[int] = []
    bad: list[str] = []
    for part, indices, complaints in _in_chunks(images.decode, len(images), size, "Decoding the images"):
        if indices:
            x[len(good) : len(good) + len(indices)] = part
        good += indices
        bad += complaints
    return x[: len(good)], good, bad


Chunk = tuple[Tensor, list[int], list[str]]


class _Chunks(Dataset):
    """What `work` makes of the images at some indices, stacked; the indices where it can; its complaints elsewhere."""

    def __init__(self, work: Callable[[int], Tensor]):
        self.work = work

    def __getitem__(self, indices: Sequence[int]) -> Chunk:
        made: dict[int, Tensor] = {}
        bad = []
        for i in indices:
            try:
                made[i] = self.work(i)
            except Unreadable as error:
                bad.append(str(error))
        return torch.stack(list(made.values())) if made else torch.empty(0), list(made), bad


def _in_chunks(work: Callable[[int], Tensor], n: int, size: int, title: str) -> Iterator[Chunk]:
    """Work on 0 ... n - 1 in order, with a bar if it takes long.

    In processes, because most of the time of a small image goes to Pillow's Python code, which threads cannot share.
    """
    chunks = [range(start, min(start + size, n)) for start in range(0, n, size)]
    workers = min(cpus(), 8) if n >= 1000 else 0
    # Its own generator, so that reading images does not move the global one.
    loader = DataLoader(
        _Chunks(work), batch_size=None, sampler=chunks, num_workers=workers, generator=torch.Generator()
    )
    with tqdm(total=n, desc=title, delay=2, mininterval=0.5, leave=False) as bar:
        for chunk in loader:
            yield chunk
            bar.update(len(chunk[1]) + len(chunk[2]))


def cpus() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

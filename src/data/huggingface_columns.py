"""Columns of a Hugging Face data set as samples: images decoded on access, and arrays."""

from collections.abc import Sequence
from copy import copy
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
import torch
from torch import Tensor

from src.data.image_files import Files, Subset
from src.data.images import Decoder, OnDisk
from src.utils.budget import LARGEST_IMAGE
from src.utils.errors import UserError, printable

X_NAMES = ("image", "img", "x", "images", "pixel_values", "data", "array", "volume", "video", "signal")
LABEL_NAMES = ("label", "labels", "fine_label", "y", "target", "class")


def is_image_column(dataset: Any, name: str) -> bool:
    """True for a column of pictures."""
    return type(dataset.features[name]).__name__ == "Image"


def column_names(dataset: Any) -> str:
    """The columns of a data set as text."""
    return ", ".join(printable(name) for name in dataset.column_names)


def check_column(dataset: Any, name: str, setting: str) -> str:
    """Return a name after checking that there is such a column.

    Raises:
        UserError: if there is none.
    """
    if name not in dataset.column_names:
        raise UserError(f"{setting}={name} must be one of the columns {column_names(dataset)}")
    return name


def guess_x(dataset: Any) -> str:
    """The column of the samples: the only one of pictures, or else one with a usual name.

    Raises:
        UserError: if there is none.
    """
    pictures = [name for name in dataset.column_names if is_image_column(dataset, name)]
    usual = [name for name in X_NAMES if name in dataset.column_names]
    if len(pictures) == 1:
        return pictures[0]
    if found := [name for name in usual if name in pictures] or ([] if pictures else usual):
        return found[0]
    raise UserError(f"data.x must name the column of the samples, of {column_names(dataset)}")


def guess_label(dataset: Any) -> str | None:
    """The column of the labels: one with a usual name, or the only one of classes; None if there is none."""
    usual = [name for name in LABEL_NAMES if name in dataset.column_names]
    classes = [name for name, kind in dataset.features.items() if type(kind).__name__ == "ClassLabel"]
    if usual:
        return usual[0]
    return classes[0] if len(classes) == 1 else None


class ImageColumn:
    """The pictures of a column, opened by row: in their own format, without being decoded.

    Args:
        dataset: the data set.
        column: the column.
    """

    def __init__(self, dataset: Any, column: str):
        from datasets import Image

        self.rows = dataset.select_columns([column]).cast_column(column, Image(decode=False)).with_format(None)
        self.column = column
        self.number = np.arange(len(dataset))

    def __len__(self) -> int:
        return len(self.number)

    def only(self, indices: np.ndarray) -> "ImageColumn":
        """The pictures at some indices."""
        found = copy(self)
        found.number = self.number[indices]
        return found

    def name(self, i: int) -> str:
        """The name of picture i in messages."""
        path = (self._row(i) or {}).get("path")
        return f"row {self.number[i]}" + (f" ({Path(path).name})" if path else "")

    def open(self, i: int, most: int | None = None) -> BinaryIO:
        """Open picture i."""
        found = self._row(i)
        if not found or not (found["bytes"] or found["path"]):
            raise OSError("it is empty")
        data = found["bytes"]
        size = len(data) if data else Path(found["path"]).stat().st_size
        if size > LARGEST_IMAGE:
            raise OSError(f"{size:,} bytes, more than {LARGEST_IMAGE:,}")
        return BytesIO(data) if data else Path(found["path"]).open("rb")

    def content(self, i: int) -> bytes | int:
        """What identifies picture i: its bytes, or the size of its file."""
        found = self._row(i) or {"bytes": b"", "path": None}
        return found["bytes"] if found["bytes"] or not found["path"] else Path(found["path"]).stat().st_size

    def _row(self, i: int) -> Any:
        return self.rows[int(self.number[i])][self.column]

    def archive(self, indices: Tensor) -> None:
        """Nothing: the rows are read in any order."""


def picture_shape(pictures: ImageColumn, channels: int | None, size: Sequence[int] | None) -> tuple[int, list[int]]:
    """The channels and the size of the pictures, as given or as those of the first.

    Raises:
        UserError: if the size is not given and the first pictures have several.
    """
    from PIL import Image

    shapes, modes = [], []
    for i in range(min(len(pictures), 16)):
        try:
            with pictures.open(i) as file, Image.open(file) as image:
                shapes.append([image.height, image.width])
                modes.append(image.mode)
        except Exception:  # damaged: reported when it is read
            continue
    if not shapes:
        raise UserError(f"data.x={pictures.column}: the first pictures cannot be read; repair them or name other ones")
    if size is None and any(shape != shapes[0] for shape in shapes):
        other = next(shape for shape in shapes if shape != shapes[0])
        raise UserError(
            f"data.size must be given, since the pictures differ in size, such as {shapes[0]} and {other}; "
            "data.size=[64,64], for example, crops and resizes all of them"
        )
    gray = all(mode.startswith(("1", "L", "I", "F")) for mode in modes)
    return (1 if gray else 3) if channels is None else channels, list(shapes[0] if size is None else size)


class ArrayColumn:
    """The arrays of a column, all of one shape, read by rows.

    Args:
        dataset: the data set.
        column: the column.
        setting: the setting that names it, for messages.

    Attributes:
        shape: (N, ...).
        dtype: type of the numbers.
    """

    def __init__(self, dataset: Any, column: str, setting: str):
        self.column, self.setting = column, setting
        self.rows = dataset.select_columns([column]).with_format("numpy")
        first = self[np.arange(min(len(dataset), 2))]
        self.shape, self.dtype, self.ndim = (len(dataset), *first.shape[1:]), first.dtype, first.ndim

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: np.ndarray | slice) -> np.ndarray:
        """The rows at some indices, (B, ...)."""
        where = indices if isinstance(indices, slice) else indices.tolist()
        try:
            found = np.asarray(self.rows[where][self.column])
        except ValueError as error:  # NumPy refuses lists of several lengths
            raise UserError(f"{self.setting}={self.column} must hold arrays of one shape ({error})") from error
        if found.dtype.kind not in "fiub":
            shown = "several shapes, or missing ones" if found.dtype.kind == "O" else f"{found.dtype}"
            raise UserError(f"{self.setting}={self.column} must hold arrays of numbers, all of one shape, got {shown}")
        if len(found) and hasattr(self, "shape") and found.shape[1:] != self.shape[1:]:
            raise UserError(
                f"{self.setting}={self.column} must hold arrays of one shape, got {found.shape[1:]} beside "
                f"{self.shape[1:]}"
            )
        return found


class PictureArray:
    """The pictures of a column, decoded on access: (N, C, H, W) uint8 in [0, 255], or float32 in [0, 1].

    Args:
        column: the pictures.
        decoder: decodes one.
        shape: (C, H, W).
        as_float: True for float32.

    Raises:
        UserError: for a picture that cannot be decoded, naming it.
    """

    def __init__(self, column: ImageColumn, decoder: Decoder, shape: Sequence[int], as_float: bool = False):
        self.column, self.decoder = column, decoder
        self.shape, self.dtype, self.as_float = (len(column), *shape), np.dtype("f4" if as_float else "u1"), as_float

    def on_disk(self, indices: np.ndarray | None = None) -> OnDisk:
        """The pictures at some indices, by default all, as a data set of tensors."""
        chosen = np.arange(len(self.column)) if indices is None else indices
        part = Subset(cast(Files, self.column), torch.from_numpy(chosen))
        return OnDisk(part, self.decoder, self.shape[1:])

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        pixels = self.on_disk()[torch.from_numpy(np.asarray(indices))].numpy()
        return pixels.astype(np.float32) / 255 if self.as_float else pixels


def picture_array(
    dataset: Any,
    column: str,
    channels: int | None,
    size: Sequence[int] | None,
    resize: Literal["crop", "stretch"],
    as_float: bool = False,
) -> PictureArray:
    """The pictures of a column, in the given shape or in that of the first.

    Raises:
        UserError: for other channels than 1 or 3, and if the size is unknown.
    """
    pictures = ImageColumn(dataset, column)
    channels, height_and_width = picture_shape(pictures, channels, size)
    if channels not in (1, 3):
        raise UserError(f"data.channels must be 1 (grayscale) or 3 (RGB) for pictures, got {channels}")
    if len(height_and_width) != 2 or min(height_and_width) < 1:
        raise UserError(f"data.size must be height and width, such as [32,32], got {height_and_width}")
    decoder = Decoder(channels, height_and_width, resize)
    return PictureArray(pictures, decoder, (channels, *height_and_width), as_float)

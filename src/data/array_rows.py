"""Samples (C, *S) as rows of arrays in memory or on disk: files of a folder, windows of recordings, other axes."""

import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from src.utils.errors import UserError, printable
from src.utils.units import Kind

Layout = Literal["channels_first", "channels_last", "no_channels"]
AXES: dict[Kind, int] = {"points": 0, "signals": 1, "images": 2, "fields": 2, "volumes": 3}
FEW = 8  # at most as many channels are recognized by their number
FORGET = 1 << 27  # bytes read from a mapped file after which the system may take back its pages


class FileRows:
    """The arrays of many files as rows, read on access.

    Args:
        files: the files, one array each.
        load: opens the array of a file.
        root: the folder that names are relative to, in messages.

    Raises:
        UserError: if a file is damaged, or its array has another number of axes or another type than the first.
    """

    def __init__(self, files: Sequence[Path], load: Callable[[Path], np.ndarray], root: Path):
        self.files, self.load, self.root = files, load, root
        self.shapes: list[tuple[int, ...]] = []
        for i in range(len(files)):
            row = self.row(i)
            self.shapes.append(row.shape)
            if i == 0:
                self.dtype, self.axes = row.dtype, row.ndim
            elif (row.dtype, row.ndim) != (self.dtype, self.axes):
                raise UserError(
                    f"must hold arrays of one type and number of axes, got {row.dtype} of shape {row.shape} in "
                    f"{self.name(i)}, and {self.dtype} of shape {self.shapes[0]} in {self.name(0)}"
                )

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...), if all files have one shape.

        Raises:
            UserError: naming the first of another shape.
        """
        for i, shape in enumerate(self.shapes):
            if shape != self.shapes[0]:
                raise UserError(
                    f"{self.root} must hold arrays of one shape, got {shape} in {self.name(i)} and {self.shapes[0]} in "
                    f"{self.name(0)}; crop them, or set data.window to take windows of recordings"
                )
        return (len(self.files), *self.shapes[0])

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return np.stack([self.row(int(i)) for i in indices])

    def row(self, i: int) -> np.ndarray:
        """The array of file i."""
        try:
            return self.load(self.files[i])
        except UserError as error:
            raise UserError(f"{self.name(i)} {error}") from error
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"{self.name(i)} cannot be read ({reason}); repair or remove it") from error

    def name(self, i: int) -> str:
        """The name of file i."""
        return printable(self.files[i].relative_to(self.root).as_posix())


class Windows:
    """Windows (C, L) of recordings, read on access: of recording r those that begin at 0, stride, 2 stride, ...

    Args:
        recordings: arrays (T, C), (C, T) or (T,), as rows.
        lengths: T of each.
        layout: the order of their axes.
        window: L.
        stride: distance between the beginnings of windows.

    Attributes:
        recording, start: (N,) the recording of each window, and its beginning.
    """

    def __init__(self, recordings: Any, lengths: Sequence[int], layout: Layout, window: int, stride: int):
        counts = [max(0, (n - window) // stride + 1) for n in lengths]
        if not sum(counts):
            raise UserError(f"data.window must be at most the length of a recording, {max(lengths)}, got {window}")
        self.recordings, self.layout, self.window = recordings, layout, window
        self.recording = np.repeat(np.arange(len(counts)), counts)
        self.start = np.concatenate([stride * np.arange(n) for n in counts])
        self.dtype, self.shape = recordings.dtype, (len(self.start), *self._cut(0).shape)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return np.stack([self._cut(int(i)) for i in indices])

    def _cut(self, i: int) -> np.ndarray:
        recording, start = self.recordings.row(int(self.recording[i])), int(self.start[i])
        if self.layout == "channels_last":
            return np.asarray(recording[start : start + self.window]).T
        cut = np.asarray(recording[..., start : start + self.window])
        return cut if cut.ndim == 2 else cut[None]


class Rows:
    """Samples (N, C, *S) of an array whose axes are in another order.

    Args:
        array: (N, ...), indexed by sorted indices.
        channels: the axis of the channels among the others, 0 the first; None without such an axis.
    """

    def __init__(self, array: Any, channels: int | None):
        self.array, self.channels, self.read = array, channels, 0
        self.dtype, shape = np.dtype(array.dtype), tuple(array.shape[1:])
        size = shape if channels is None else tuple(n for i, n in enumerate(shape) if i != channels)
        self.shape = (array.shape[0], 1 if channels is None else shape[channels], *size)
        self.sample_bytes = int(np.prod(self.shape[1:])) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """The samples (B, C, *S) at indices (B,) in any order, in their own type."""
        order = np.argsort(indices, kind="stable")
        ordered, back = np.unique(indices[order], return_inverse=True)  # as HDF5 wants them
        raw = np.asarray(self.array[ordered])
        self.forget(raw.nbytes)
        inverse = np.empty_like(back)
        inverse[order] = back
        raw = raw[inverse]
        return raw[:, None] if self.channels is None else np.moveaxis(raw, 1 + self.channels, 1)

    def expect_random_access(self) -> None:
        """Tell the system not to read ahead in a mapped file: of 64 samples of 100 GB that takes 500 times as long."""
        mapped = getattr(self.array, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)

    def forget(self, read: int) -> None:
        """Give back the pages of a mapped file from time to time, so that a large file does not fill the memory."""
        self.read += read
        mapped = getattr(self.array, "_mmap", None)
        if mapped is not None and self.read > FORGET and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)
            self.read = 0


class Separate:
    """Rows of an array as recordings, or a single recording."""

    def __init__(self, array: Any, single: bool):
        self.array, self.single, self.dtype = array, single, array.dtype

    def row(self, i: int) -> Any:
        """Recording i."""
        return self.array if self.single else self.array[i]


def channel_axis(shape: Sequence[int], kind: Kind | None, layout: Layout | None) -> int | None:
    """The axis of the channels of a sample of this shape; None if it has no such axis.

    Without `kind` and `layout` it is the first or the last if it has at most 8 entries, and either a quarter of those
    of any other axis, or fewer than the others, which are equal.

    Raises:
        UserError: for a shape that cannot be of this kind.
    """
    axes = len(shape)
    if kind is not None and axes not in (AXES[kind], AXES[kind] + 1):
        named = f"{AXES[kind]} axes, or {AXES[kind] + 1} with channels"
        raise UserError(f"data.kind={kind}: each sample must have {named}, got the shape {tuple(shape)}")
    if axes == 0 or layout == "no_channels" or (kind is not None and axes == AXES[kind]):
        if axes > 3:
            raise UserError(f"samples may have at most 3 axes besides the channels, got the shape {tuple(shape)}")
        return None
    if layout is not None:
        return 0 if layout == "channels_first" else axes - 1
    if axes == 1:
        return 0
    for i in (0, axes - 1):
        others = [n for j, n in enumerate(shape) if j != i]
        square = len(others) > 1 and len(set(others)) == 1 and shape[i] < others[0]
        if shape[i] <= FEW and (square or 4 * shape[i] <= min(others)):
            return i
    if kind is not None or axes == 4:
        return 0
    if axes > 4:
        raise UserError(f"samples may have at most 3 axes besides the channels, got the shape {tuple(shape)}")
    return None

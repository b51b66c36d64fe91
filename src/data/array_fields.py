"""What is known of each sample of an array: labels, numbers, texts, images, its group, and its part of the data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.data.array_files import ArrayFile, open_arrays
from src.data.array_rows import Rows, channel_axis
from src.data.names import part_of
from src.diffusion.conditions.text import encode_text
from src.utils.errors import UserError, printable
from src.utils.seeding import generator

LABELS = ("label", "labels", "y", "target", "targets", "class")
MAX_TEXT = 1024  # bytes
PARTS = {"train": 0, "val": 1, "test": 2}


def column(file: ArrayFile, name: str, setting: str) -> Any:
    """The array of this name in the file; or else that of another file or folder of this name.

    Raises:
        UserError: if there is neither, or it has another number of rows.
    """
    if name in file.arrays:
        return file.arrays[name]
    beside = next((path for path in (Path(name), file.path.parent / name) if path.exists()), None)
    if beside is None:
        file.get(name, setting)  # raises
    assert beside is not None
    other = open_arrays(beside, setting)
    if file.files and other.files:
        return paired(file, other, setting)
    arrays = [array for key, array in other.arrays.items() if key == "x" or len(other.arrays) == 1]
    if not arrays:
        raise UserError(f"{setting}={beside} must hold one array, got {', '.join(other.arrays)}")
    return arrays[0]


def paired(file: ArrayFile, other: ArrayFile, setting: str) -> Any:
    """The rows of another folder, in the order of files of the same names, whatever their endings.

    Raises:
        UserError: naming those without a partner.
    """
    stems = [[name.rpartition(".")[0] for name in each.files] for each in (file, other)]
    place = {stem: i for i, stem in enumerate(stems[1])}
    alone = {file.path: set(stems[0]) - set(stems[1]), other.path: set(stems[1]) - set(stems[0])}
    for path, names in alone.items():
        if names:
            some = ", ".join(map(printable, sorted(names)[:3]))
            raise UserError(
                f"{setting}: {len(names)} files of {path} have no partner, such as {some}; add or remove them"
            )
    rows = other.arrays["x"]
    rows.files = [rows.files[place[stem]] for stem in stems[0]]
    return rows


def check_rows(values: Any, n: int, setting: str) -> Any:
    """Refuse values of another number of rows than the samples."""
    if len(values) != n:
        raise UserError(f"{setting} must have a row for each of the {n:,} samples, got {len(values):,}")
    return values


def read_labels(values: Any, setting: str) -> tuple[Tensor, list[str]]:
    """The labels (N,) int64 of classes, and their sorted names.

    Raises:
        UserError: for numbers that are not whole, or missing labels.
    """
    values = np.asarray(values)
    values = values.reshape(len(values), -1)
    if values.shape[1] != 1:
        raise UserError(f"{setting} must hold one label for each sample, got {values.shape[1]}; data.vector takes more")
    values = values[:, 0]
    if values.dtype.kind == "f":
        if not (np.isfinite(values) & (values == np.round(values))).all():
            raise UserError(
                f"{setting} must hold whole numbers or names; data.vector={setting.split('=')[-1]} takes reals"
            )
        values = values.astype(np.int64)
    names, index = np.unique(values, return_inverse=True)
    if not are_classes(values):
        raise UserError(f"{setting} has {len(names):,} classes for {len(values):,} samples; it may be no label")
    return torch.from_numpy(index.reshape(-1)).long(), [printable(str(name)) for name in names.tolist()]


def are_classes(values: np.ndarray) -> bool:
    """True if there are few enough different values to be labels: half as many as samples."""
    return len(np.unique(values)) <= max(2, len(values) // 2)


def read_vectors(columns: Sequence[Any], names: Sequence[str], setting: str) -> tuple[Tensor, list[str]]:
    """Numbers (N, k) float32 of some columns or arrays, and the names of their entries.

    Raises:
        UserError: for values that are no finite numbers.
    """
    parts, entries = [], []
    for values, name in zip(columns, names, strict=True):
        values = np.asarray(values)
        if values.dtype.kind not in "fiub":
            raise UserError(
                f"{setting}: {name} must hold numbers, got {values.dtype}; data.label takes names of classes"
            )
        values = values.reshape(len(values), -1).astype(np.float64)
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
            raise UserError(f"{setting}: {name} holds NaN or infinity, first for sample {row}; remove or replace it")
        parts.append(values)
        one = values.shape[1] == 1
        entries += [name] if one else [f"{name}[{i}]" for i in range(values.shape[1])]
    return torch.from_numpy(np.concatenate(parts, 1)).float(), [printable(name) for name in entries]


def read_texts(values: Any, setting: str) -> Tensor:
    """The bytes (N, length) of texts, see `encode_text`.

    Raises:
        UserError: for values that are no texts, or no UTF-8.
    """
    values = np.asarray(values)
    if values.dtype.kind == "S":
        try:
            values = np.char.decode(values, "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{setting} must be UTF-8 ({error.reason}); convert it") from error
    if values.dtype.kind not in "UT" or values.ndim != 1:
        raise UserError(f"{setting} must hold one text for each sample, got {values.dtype} of shape {values.shape}")
    try:
        most = max(len(text.encode()) for text in values.tolist())
        if most > MAX_TEXT:
            raise UserError(f"{setting} may hold texts of at most {MAX_TEXT} bytes, got {most}; shorten them")
        return encode_text(values.tolist(), max(1, most))
    except (UnicodeEncodeError, ValueError) as error:
        raise UserError(f"{setting}: {error}") from error


def paired_rows(values: Any, setting: str) -> Rows:
    """Images (N, C', *S') that belong to the samples, read on access."""
    if getattr(values, "ndim", 2) == 1 and not hasattr(values, "shapes"):
        raise UserError(f"{setting} must hold an array for each sample, got one number; data.vector takes numbers")
    return Rows(values, channel_axis(tuple(values.shape[1:]), None, None))


# ---- parts of the data ----


def parts_from_names(values: Any, setting: str) -> np.ndarray:
    """The part of each sample, 0 train, 1 val, 2 test, from names such as `training` and `validation`.

    Raises:
        UserError: for other names, and without training samples.
    """
    values = np.asarray(values).astype(str)
    names, index = np.unique(values, return_inverse=True)
    found = [part_of(name) for name in names.tolist()]
    if None in found:
        raise UserError(
            f"{setting} must name train, val or test for each sample, got {str(names[found.index(None)])!r}"
        )
    parts = np.array([PARTS[str(name)] for name in found])[index.reshape(-1)]
    if not (parts == 1).any():
        parts[parts == 2] = 1  # test samples are used for validation
    if not {0, 1} <= set(parts.tolist()):
        raise UserError(f"{setting} must name some samples train, and others val or test")
    return parts.astype(np.uint8)


def parts_by_group(group: np.ndarray, n_val: int, seed: int) -> np.ndarray:
    """The part of each sample: whole groups, drawn by the seed, until there are `n_val` validation samples.

    Raises:
        UserError: if there is one group only.
    """
    names, index = np.unique(group, return_inverse=True)
    index = index.reshape(-1)
    if len(names) < 2:
        raise UserError("data.group must have at least 2 groups, one of them for validation, got 1; leave it out")
    order = torch.randperm(len(names), generator=generator(seed, "split")).numpy()
    before = np.cumsum(np.bincount(index)[order]) - np.bincount(index)[order]
    chosen = order[(before < n_val)][: len(names) - 1]
    return np.isin(index, chosen).astype(np.uint8)


def parts_of_one_recording(start: np.ndarray, window: int, val_fraction: float) -> np.ndarray:
    """The part of each window of a single recording: the end is for validation; 3 for windows across the border.

    Raises:
        UserError: if a part has no window.
    """
    border = round((1 - val_fraction) * (int(start.max()) + window))
    parts = np.where(start >= border, 1, np.where(start + window <= border, 0, 3)).astype(np.uint8)
    if not {0, 1} <= set(parts.tolist()):
        raise UserError(
            f"data.val_fraction={val_fraction} leaves no whole window of {window} for training or validation; choose "
            "another, or a smaller data.window or data.stride"
        )
    return parts

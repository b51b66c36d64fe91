"""Read the new data that are compared with those of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src.data.base import DataModule
from src.data.samples import Batch, BatchDataset
from src.diffusion.conditions.text import encode_text
from src.utils.errors import UserError
from src.utils.files import read_arrays
from src.utils.sample_files import picture_files, read_samples

MOST = 100_000  # new samples that are read


def read_new(path: Path, data: DataModule, classes: list[str]) -> Batch:
    """Read new samples {"x": (N, C, *S) in the units of the data, "label" and other fields where they are known}.

    Args:
        path: what the data module can read, or a picture, a folder of them, or an array file.
        data: that of the run.
        classes: the names of its classes.

    Raises:
        UserError: if they cannot be read, or are no samples of the shape of the data.
    """
    if not path.exists():
        raise UserError(f"new={path} does not exist; give a folder of pictures, an array file, or a data file")
    with named_new():
        found = data.read_more(str(path))
    if found is not None:
        return everything(found, data)
    x = read_samples(path, data.shape, "new", data.kind, data.units)
    if x.shape[1:] != data.shape:
        there, here = (" x ".join(map(str, shape)) for shape in (x.shape[1:], data.shape))
        raise UserError(f"new={path} must hold samples of shape {here}, as the data of this run, got {there}")
    new = {"x": data.to_units(x, clip=False)}
    if path.suffix.lower() == ".npz":
        return new | known_fields(path, len(x), data)
    return new | class_folders(path, classes) if path.is_dir() else new


@contextmanager
def named_new() -> Iterator[None]:
    """Name the setting as the user does: data modules know it as their validation data."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("data.val_root", "new").replace("data.root", "new")) from error


def everything(samples: BatchDataset, data: DataModule) -> Batch:
    """All samples as one batch, in the units of the data."""
    n = len(samples)
    if n > MOST:
        raise UserError(f"new must hold at most {MOST:,} samples, got {n:,}; give a part of them")
    parts = [samples[-1, rows] for rows in torch.arange(n).split(500)]
    batch = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return batch | {"x": data.to_units(batch["x"], clip=False)}


def known_fields(path: Path, n: int, data: DataModule) -> Batch:
    """The fields of an archive that the data of the run have too, such as `label`, with a row for each sample."""
    there = data.train_set[0, torch.arange(1)]
    found: Batch = {}
    for name, values in read_arrays(path, {}, "Give another file").items():
        if name == "x" or name not in there:
            continue
        value = as_field(name, values, there[name])
        if value.shape != (n, *there[name].shape[1:]):
            wanted = " x ".join(map(str, (n, *there[name].shape[1:])))
            raise UserError(f"new={path}: {name} must have the shape {wanted}, got {tuple(value.shape)}")
        found[name] = value
    return found


def as_field(name: str, values: np.ndarray, like: Tensor) -> Tensor:
    """An array as the field of a batch; texts become their bytes."""
    if values.dtype.kind == "U":
        try:
            return encode_text(values.ravel().tolist(), like.shape[-1])
        except ValueError as error:
            raise UserError(f"new: {name} {error}") from error
    if values.dtype.kind not in "fiub" or (values.dtype.kind == "f" and not like.is_floating_point()):
        raise UserError(f"new: {name} must be {like.dtype}, as in the data of this run, got {values.dtype}")
    return torch.from_numpy(values).to(like.dtype)


def class_folders(path: Path, classes: list[str]) -> Batch:
    """The labels of pictures whose folders are named like the classes; none unless all are."""
    tops = [file.relative_to(path).parts[0] for file in picture_files(path)]
    if not classes or not set(tops) <= set(classes):
        return {}
    return {"label": torch.tensor([classes.index(top) for top in tops])}

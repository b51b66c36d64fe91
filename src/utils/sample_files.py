"""Read and write samples: pictures, folders of pictures, and arrays."""

import os
import zipfile
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.lib import format as npy
from PIL import Image
from torch import Tensor

from src.utils.budget import check_expansion
from src.utils.errors import UserError
from src.utils.images import ENDINGS, is_hidden, is_image, plain, why_unreadable
from src.utils.units import Kind, Units, kind_of, units_of

ARRAYS = (".npy", ".npz")


def read_samples(
    path: Path, shape: Sequence[int], key: str = "input", kind: Kind | None = None, units: Units | None = None
) -> Tensor:
    """Read the samples (N, C, *S) of a file or folder, in the units of the model: images are in [-1, 1].

    Pictures are decoded as in training and converted to the channels of the model, but keep their size. An array, in a
    .npz file named x, holds one or more samples in the units of the data: images in [0, 1] or uint8.

    Args:
        path: a picture, a folder of pictures of one size, a .npy or a .npz file.
        shape: the shape (C, *S) of the model's samples; only C and the number of axes are used, the caller checks S.
        key: the setting that error messages name.
        kind: kind of the data; by default images if the shape has three entries, otherwise by the number of axes.
        units: units of the data; by default those of their kind.

    Raises:
        UserError: if the path does not exist, or its content does not fit the model.
    """
    kind = kind or ("images" if len(shape) == 3 else kind_of(len(shape) - 1))
    images, units = kind == "images", units or units_of(kind)
    if not path.exists():
        raise UserError(f"{key}={path} does not exist; give a picture, a folder of them, a .npy or a .npz file")
    if not (path.is_file() or path.is_dir()):  # a pipe would block
        raise UserError(f"{key}={path} must be a file or a folder")
    if path.suffix.lower() in ARRAYS:
        x = read_array(path, 1 + len(shape), key, images)
    elif not images:
        raise UserError(f"{key}={path} must be a .npy or .npz file, since the samples are not images")
    elif shape[0] not in (1, 3):
        raise UserError(f"{key}={path} must be a .npy or .npz file, since the samples have {shape[0]} channels")
    else:
        x = read_pictures(path, shape[0], key)
    if len(units.scale) not in (1, x.shape[1]):
        raise UserError(f"{key}={path} must hold samples of {shape[0]} channels, got {x.shape[1]}")
    return units.to_model(x)


def read_array(path: Path, axes: int, key: str, images: bool) -> Tensor:
    """Read an array as (N, C, *S) float32; missing leading axes have size 1."""
    try:
        array = load_array(path, axes)
    except UserError as error:
        raise UserError(f"{key}={path} {error}") from error
    except Exception as error:  # damaged files raise anything, from BadZipFile to zlib.error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{key}={path} cannot be read ({reason}); give another file") from error
    with np.errstate(over="ignore"):  # too large numbers become infinite and are refused below
        x = torch.from_numpy(array.astype(np.float32) / (255 if array.dtype == np.uint8 and images else 1))
    x = x[(None,) * (axes - x.ndim)]
    if not x.isfinite().all():
        raise UserError(f"{key}={path} holds numbers that are not finite; replace them")
    if images and not (x.min() > -4 and x.max() < 5):
        raise UserError(
            f"{key}={path}: images must be in [0, 1] or uint8, got {x.min():.3g} to {x.max():.3g}; scale them"
        )
    return x


def load_array(path: Path, axes: int) -> np.ndarray:
    """Load the array of a .npy file, or x of a .npz file, after a check of its header."""
    with path.open("rb") as file:
        if path.suffix.lower() == ".npy":
            check_header(file, path.stat().st_size, axes)
            file.seek(0)
            return npy.read_array(file, allow_pickle=False)
        with zipfile.ZipFile(file) as archive:
            if "x.npy" not in archive.namelist():
                there = ", ".join(name.removesuffix(".npy") for name in archive.namelist()[:5])
                raise UserError(f"must hold an array named x, got {there or 'none'}; save the samples as x")
            packed = archive.getinfo("x.npy")
            check_expansion(packed.compress_size, packed.file_size, "holds an x that")
            with archive.open("x.npy") as member:
                check_header(member, packed.file_size, axes)
            with archive.open("x.npy") as member:
                array = npy.read_array(member, allow_pickle=False)
                member.read()  # to the end, where the checksum is verified
                return array


def check_header(file: IO[bytes], size: int, axes: int) -> None:
    """Check the header of a .npy file.

    Args:
        file: the open file, at its beginning.
        size: its size in bytes.
        axes: the number of axes of a batch.

    Raises:
        UserError: if the array does not hold samples, is truncated, or does not fit in memory.
    """
    short = npy.read_magic(file) == (1, 0)
    shape, _, dtype = (npy.read_array_header_1_0 if short else npy.read_array_header_2_0)(file)
    if dtype.kind not in "fiub" or not max(1, axes - 2) <= len(shape) <= axes or not all(shape):
        raise UserError(f"must hold numbers of shape (N, C, ...), got {dtype} of shape {shape}")
    if file.tell() + prod(shape) * dtype.itemsize != size:
        raise UserError(f"is truncated or damaged: its size does not fit {dtype} of shape {shape}")
    if hasattr(os, "sysconf") and prod(shape) * (4 + dtype.itemsize) > memory():
        raise UserError(f"must fit in the memory of this machine, got {dtype} of shape {shape}; give fewer samples")


def memory() -> int:
    """The memory of this machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def read_pictures(path: Path, channels: int, key: str) -> Tensor:
    """Read pictures as (N, C, H, W) float32 in [0, 1]; those of a folder are sorted by name."""
    files = picture_files(path) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{key}={path} must hold pictures, whose names end in {', '.join(ENDINGS)}")
    pictures = []
    for file in files:
        pictures.append(read_picture(file, channels, key))
        if pictures[-1].shape != pictures[0].shape:  # checked one by one, so that many do not fill the memory
            there, first = (" x ".join(map(str, picture.shape[1:])) for picture in (pictures[-1], pictures[0]))
            raise UserError(
                f"{key}={path}: all pictures must have the same size, got {there} for {file.relative_to(path)} and "
                f"{first} for {files[0].relative_to(path)}; resize them"
            )
    return torch.stack(pictures).float() / 255


def picture_files(folder: Path) -> list[Path]:
    """The sorted paths of the pictures in a folder and its subfolders."""
    found = (path for path in folder.rglob("*") if is_image(path.name))
    inside = sorted(path.relative_to(folder).as_posix() for path in found if path.is_file() or not path.exists())
    return [folder / name for name in inside if not any(map(is_hidden, name.split("/")))]


def read_picture(file: Path, channels: int, key: str) -> Tensor:
    """Read a picture as (C, H, W) uint8."""
    try:
        with Image.open(file) as image:
            pixels = torch.from_numpy(np.array(plain(image, "L" if channels == 1 else "RGB")))
    except Exception as error:
        raise UserError(
            f"{key}={file} cannot be read as a picture ({why_unreadable(error)}); give another file"
        ) from error
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1)


def write_pictures(x: Tensor, folder: Path, first: int = 0) -> None:
    """Write images (N, C, H, W) in [0, 1] as one PNG file each, named by their number from `first`."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = (x.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    for i, picture in enumerate(pixels, first):
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(folder / f"{i:05d}.png")

"""Samples in files: pictures, folders of them, and arrays."""

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
from src.utils.units import to_model

ARRAYS = (".npy", ".npz")


def read_samples(path: Path, shape: Sequence[int], key: str = "input") -> Tensor:
    """The samples (N, C, *S) of a file or folder, in the [-1, 1] of the model.

    Pictures are read as those of training are, but keep their size; as many channels as the model has are made of them.
    An array, x of a .npz such as the commands write, holds one sample or several, images in [0, 1] (or uint8), signals
    as they are.

    Args:
        path: a picture, a folder of pictures of one size, a .npy or a .npz file.
        shape: (C, *S) of the model's samples; S is not that of what is read, which the caller checks.
        key: the setting that errors name.

    Raises:
        UserError: where there is nothing to read, or not what is wanted.
    """
    images = len(shape) == 3
    if not path.exists():
        raise UserError(f"{key}={path} does not exist; give a picture, a folder of them, a .npy or a .npz file")
    if not (path.is_file() or path.is_dir()):  # a pipe would be waited for
        raise UserError(f"{key}={path} is neither a file nor a folder")
    if path.suffix.lower() in ARRAYS:
        x = read_array(path, 1 + len(shape), key)
    elif not images:
        raise UserError(f"{key}={path}: signals and points are read from .npy and .npz files")
    elif shape[0] not in (1, 3):
        raise UserError(f"{key}={path}: data of {shape[0]} channels are read from .npy and .npz files")
    else:
        x = read_pictures(path, shape[0], key)
    return to_model(x, "images") if images else x


def read_array(path: Path, axes: int, key: str) -> Tensor:
    """An array as (N, C, *S) float32; what lacks axes has one sample, or one channel."""
    try:
        array = load_array(path, axes)
    except UserError as error:
        raise UserError(f"{key}={path} {error}") from error
    except Exception as error:  # of a damaged file anything, from BadZipFile to zlib.error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{key}={path} cannot be read ({reason}); give another file") from error
    images = axes == 4
    with np.errstate(over="ignore"):  # what is too large is refused below, as infinite
        x = torch.from_numpy(array.astype(np.float32) / (255 if array.dtype == np.uint8 and images else 1))
    x = x[(None,) * (axes - x.ndim)]
    if not x.isfinite().all():
        raise UserError(f"{key}={path} holds numbers that are not finite")
    if images and not (x.min() > -4 and x.max() < 5):
        raise UserError(f"{key}={path} reaches from {x.min():.3g} to {x.max():.3g}, but images are [0, 1], or uint8")
    return x


def load_array(path: Path, axes: int) -> np.ndarray:
    """The array of a .npy file, or x of a .npz, whose header is judged before the numbers are read."""
    with path.open("rb") as file:
        if path.suffix.lower() == ".npy":
            check_header(file, path.stat().st_size, axes)
            file.seek(0)
            return npy.read_array(file, allow_pickle=False)
        with zipfile.ZipFile(file) as archive:
            if "x.npy" not in archive.namelist():
                there = ", ".join(name.removesuffix(".npy") for name in archive.namelist()[:5])
                raise UserError(f"holds no array named x, but {there or 'nothing'}; save the samples as x")
            packed = archive.getinfo("x.npy")
            check_expansion(packed.compress_size, packed.file_size, "holds an x that")
            with archive.open("x.npy") as member:
                check_header(member, packed.file_size, axes)
            with archive.open("x.npy") as member:
                array = npy.read_array(member, allow_pickle=False)
                member.read()  # to the end, where the checksum is compared
                return array


def check_header(file: IO[bytes], size: int, axes: int) -> None:
    """Refuse an array that is none of samples, or is not all there, or would not fit in memory.

    Args:
        file: at its beginning.
        size: of all of it, in bytes.
        axes: those of a batch.
    """
    short = npy.read_magic(file) == (1, 0)
    shape, _, dtype = (npy.read_array_header_1_0 if short else npy.read_array_header_2_0)(file)
    if dtype.kind not in "fiub" or not max(1, axes - 2) <= len(shape) <= axes or not all(shape):
        raise UserError(f"holds {dtype} of shape {shape}; numbers (N, C, ...) are needed")
    if file.tell() + prod(shape) * dtype.itemsize != size:
        raise UserError(f"is cut off or damaged: {dtype} of shape {shape} would take another number of bytes")
    if hasattr(os, "sysconf") and prod(shape) * (4 + dtype.itemsize) > memory():
        raise UserError(f"holds {dtype} of shape {shape}, which is more than this machine's memory; give fewer samples")


def memory() -> int:
    """That of this machine, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def read_pictures(path: Path, channels: int, key: str) -> Tensor:
    """Pictures as (N, C, H, W) float32 in [0, 1], those of a folder in the order of their names."""
    files = picture_files(path) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{key}={path} holds no picture; files that end in {', '.join(ENDINGS)} are looked for")
    pictures = []
    for file in files:
        pictures.append(read_picture(file, channels, key))
        if pictures[-1].shape != pictures[0].shape:  # before the next one, so that many of them fill no memory
            there, first = (" x ".join(map(str, picture.shape[1:])) for picture in (pictures[-1], pictures[0]))
            raise UserError(
                f"{key}={path}: {file.relative_to(path)} is {there}, but {files[0].relative_to(path)} {first}; "
                "give pictures of one size"
            )
    return torch.stack(pictures).float() / 255


def picture_files(folder: Path) -> list[Path]:
    """Those of a folder and the folders below it."""
    found = (path for path in folder.rglob("*") if is_image(path.name))
    inside = sorted(path.relative_to(folder).as_posix() for path in found if path.is_file() or not path.exists())
    return [folder / name for name in inside if not any(map(is_hidden, name.split("/")))]


def read_picture(file: Path, channels: int, key: str) -> Tensor:
    """One picture as (C, H, W) uint8."""
    try:
        with Image.open(file) as image:
            pixels = torch.from_numpy(np.array(plain(image, "L" if channels == 1 else "RGB")))
    except Exception as error:
        raise UserError(f"{key}={file} is no picture that can be read ({why_unreadable(error)})") from error
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1)


def write_pictures(x: Tensor, folder: Path, first: int = 0) -> None:
    """Write images (N, C, H, W) in [0, 1] as PNG files, one each, named by their number."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = (x.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    for i, picture in enumerate(pixels, first):
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(folder / f"{i:05d}.png")

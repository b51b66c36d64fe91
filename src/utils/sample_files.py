"""Samples in files: pictures, folders of them, and arrays."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from src.utils.errors import UserError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
ARRAYS = (".npy", ".npz")


def read_samples(path: Path, axes: int, key: str = "input") -> Tensor:
    """The samples (N, C, *S) of a file or folder, in the [-1, 1] of the model.

    A picture has one channel where it is grey, else three. An array, x of a .npz such as the commands write, holds one
    sample or several, images in [0, 1] (or uint8), signals as they are.

    Args:
        path: a picture, a folder of pictures of one size, a .npy or a .npz file.
        axes: those of a batch: 4 of images, 3 of signals, 2 of points.
        key: the setting that errors name.

    Raises:
        UserError: where there is nothing to read, or not what is wanted.
    """
    if not path.exists():
        raise UserError(f"{key}={path} does not exist; give a picture, a folder of them, a .npy or a .npz file")
    if path.suffix.lower() in ARRAYS:
        x = read_array(path, axes, key)
    elif axes == 4:
        x = read_pictures(path, key)
    else:
        raise UserError(f"{key}={path}: signals and points are read from .npy and .npz files")
    return 2 * x - 1 if axes == 4 else x


def read_array(path: Path, axes: int, key: str) -> Tensor:
    """An array as (N, C, *S) float32; what lacks axes has one sample, or one channel."""
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            array = loaded if isinstance(loaded, np.ndarray) else loaded["x"]
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise UserError(f"{key}={path} cannot be read ({error}); an array named x is looked for in .npz") from error
    images = axes == 4
    if array.dtype.kind not in "fiub" or not max(1, axes - 2) <= array.ndim <= axes or not array.size:
        raise UserError(f"{key}={path} holds {array.dtype} of shape {array.shape}; numbers (N, C, ...) are needed")
    x = torch.from_numpy(array.astype(np.float32) / (255 if array.dtype == np.uint8 and images else 1))
    x = x[(None,) * (axes - x.ndim)]
    if not x.isfinite().all():
        raise UserError(f"{key}={path} holds numbers that are not finite")
    if images and not (x.min() > -4 and x.max() < 5):
        raise UserError(f"{key}={path} reaches from {x.min():.3g} to {x.max():.3g}, but images are [0, 1], or uint8")
    return x


def read_pictures(path: Path, key: str) -> Tensor:
    """Pictures as (N, C, H, W) float32 in [0, 1]."""
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{key}={path} holds no picture; files that end in {', '.join(PICTURES)} are looked for")
    pictures = [read_picture(file, key) for file in files]
    odd = next((file for file, p in zip(files, pictures, strict=True) if p.shape != pictures[0].shape), None)
    if odd is not None:
        raise UserError(f"{key}={path}: {odd.name} differs from {files[0].name} in size or channels")
    return torch.stack(pictures)


def read_picture(file: Path, key: str) -> Tensor:
    """One picture as (C, H, W) float32 in [0, 1]: grey where it has no colours, else RGB on white."""
    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):  # 16-bit grey
                return torch.from_numpy(np.asarray(image).astype(np.float32) / 65535)[None]
            grey = image.mode in ("1", "L", "LA")
            on_white: Image.Image = image
            if "A" in image.getbands() or "transparency" in image.info:
                on_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            pixels = np.asarray(on_white.convert("L" if grey else "RGB")).astype(np.float32) / 255
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise UserError(f"{key}={file} is no picture that can be read") from error
    return torch.from_numpy(pixels[None] if grey else pixels.transpose(2, 0, 1))


def write_pictures(x: Tensor, folder: Path, first: int = 0) -> None:
    """Write images (N, C, H, W) in [0, 1] as PNG files, one each, named by their number."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = (x.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    for i, picture in enumerate(pixels, first):
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(folder / f"{i:05d}.png")

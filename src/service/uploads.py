"""Arrays and pictures in requests, decoded within limits."""

import binascii
from base64 import b64decode
from collections.abc import Sequence
from io import BytesIO
from math import prod
from typing import Any

import numpy as np
from PIL import Image

from src.utils.errors import UserError
from src.utils.images import plain, why_unreadable

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def picture(text: str, channels: int, most_pixels: int, key: str) -> np.ndarray:
    """Decode a picture in base64 as training does, as (C, H, W) in [0, 1].

    Args:
        text: base64, or a data URL of it.
        channels: 1 for grayscale, 3 for RGB.
        most_pixels: of the picture; checked before it is decoded.
        key: the name in error messages.

    Raises:
        UserError: if it cannot be decoded.
    """
    try:
        data = b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{key} must be a picture in base64, or a data URL") from error
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > most_pixels:
                raise UserError(f"{key} may have {most_pixels:,} pixels, got {image.width} x {image.height}")
            pixels = np.array(plain(image, "L" if channels == 1 else "RGB"))
    except UserError:
        raise
    except Exception as error:  # damaged pictures raise anything
        raise UserError(f"{key} cannot be read as a picture ({why_unreadable(error)})") from error
    x = pixels.astype(np.float32) / 255
    return x[None] if x.ndim == 2 else x.transpose(2, 0, 1)


def decode_pictures(texts: Sequence[str], channels: int | None, most_pixels: int, key: str = "images") -> np.ndarray:
    """Decode pictures, as (N, C, H, W).

    Args:
        texts: base64, or data URLs of it.
        channels: of the samples, if they are images.
        most_pixels: of all pictures together.
        key: the name in error messages.

    Raises:
        UserError: if they cannot be decoded, or differ in size.
    """
    if channels not in (1, 3):
        raise UserError(f"{key}: those of this run are not pictures; send an array")
    if not texts:
        raise UserError(f"{key} must hold a picture, got none")
    found: list[np.ndarray] = []
    for i, text in enumerate(texts):
        found.append(picture(text, channels, most_pixels // len(texts), f"{key}[{i}]"))
        if found[-1].shape != found[0].shape:
            raise UserError(f"{key} must all have the same size; resize them")
    return np.stack(found)


def array(value: list[Any], key: str) -> np.ndarray:
    """Read nested lists of numbers.

    Raises:
        UserError: if they are ragged, or hold something else than finite numbers.
    """
    try:
        x = np.array(value)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{key} must be an array: nested lists of equal lengths") from error
    if x.dtype.kind not in "fiub" or not x.size:
        raise UserError(f"{key} must be an array of numbers")
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    if not np.isfinite(x).all() or np.abs(x).max() > 1e6:
        raise UserError(f"{key} must hold numbers between -1,000,000 and 1,000,000")
    return x


def batch(value: list[Any], shape: Sequence[int], images: bool, most_numbers: int) -> np.ndarray:
    """Read an array (N, C, *S), or of one sample (C, *S), with any sizes S.

    Raises:
        UserError: if it has another number of axes or channels, or images are not in [0, 1].
    """
    x = array(value, "x")
    if x.ndim == len(shape):
        x = x[None]
    if x.ndim != 1 + len(shape) or x.shape[1] != shape[0]:
        wanted = "(N, " + ", ".join([str(shape[0]), "H", "W", "D"][: len(shape)]) + ")"
        raise UserError(f"x must have the shape {wanted}, got ({', '.join(map(str, x.shape))})")
    if prod(x.shape) > most_numbers:
        raise UserError(f"x may hold {most_numbers:,} numbers, got {prod(x.shape):,}")
    if images and not (x.min() > -4 and x.max() < 5):
        raise UserError(f"x: images must be in [0, 1], got {x.min():.3g} to {x.max():.3g}; scale them")
    return x


def mask_of(value: str | list[Any], most_pixels: int) -> np.ndarray:
    """Read a mask (*S), not zero where something is to be filled in.

    Raises:
        UserError: if it cannot be read.
    """
    if isinstance(value, str):
        return (picture(value, 1, most_pixels, "mask")[0] > 0.5).astype(np.float32)
    return array(value, "mask")

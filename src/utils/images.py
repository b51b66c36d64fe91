"""Decoding of image files to 8-bit pixels, for training and all other inputs."""

from typing import Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

# Suffixes of the formats that Pillow decodes without another library.
ENDINGS = (
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jfif", ".jpe", ".jp2", ".apng",
    ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".dib",
)  # fmt: skip
TURNS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def is_image(name: str) -> bool:
    return name.lower().endswith(ENDINGS)


def is_hidden(name: str) -> bool:
    """Return True for a file or folder name that begins with a dot, or that macOS adds to archives."""
    return name.startswith(".") or name == "__MACOSX"


def plain(image: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
    """Convert an image to its first frame, upright, on a white background, as 8-bit grayscale or RGB."""
    image.load()  # before the orientation, which may follow the pixels; Pillow turns a TIFF here
    turn = TURNS.get(_orientation(image))
    image = _on_white(image if turn is None else image.transpose(turn))
    return image if image.mode == mode else image.convert(mode)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) if the EXIF data cannot be read, since the pixels can."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF raises anything, from SyntaxError to struct.error
        return 1


def _on_white(image: Image.Image) -> Image.Image:
    """Convert an image to 8 bits, and a transparent one to opaque on white."""
    if image.mode.startswith(("I", "F")):  # 16-bit grayscale, which Pillow's own conversion clips
        gray = np.asarray(image).astype(np.float64)
        if image.mode == "F" or gray.min() < 0 or gray.max() > 65535:
            raise ValueError("pixels must have at most 16 bits, since the range of larger ones is unknown")
        return Image.fromarray(np.rint(gray / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def why_unreadable(error: Exception) -> str:
    """Describe the error of an unreadable image; damaged files raise anything, from OSError to struct.error."""
    if isinstance(error, UnidentifiedImageError):  # its own message only names an object in memory
        return "not an image of a known format"
    return " ".join(str(error).split()) or type(error).__name__

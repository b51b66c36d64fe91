"""Decoding of image files to 8-bit pixels, for training and all other inputs."""

from typing import Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

# What Pillow decodes without another library.
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
    """Whether the name, without folders, is one of those that systems leave behind."""
    return name.startswith(".") or name == "__MACOSX"


def plain(image: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
    """The first frame, upright, on white, at 8 bits, in grayscale or RGB."""
    image.load()  # the orientation may stand behind the pixels, and a TIFF is turned by this
    turn = TURNS.get(_orientation(image))
    image = _on_white(image if turn is None else image.transpose(turn))
    return image if image.mode == mode else image.convert(mode)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1, upright, where the EXIF data cannot be read: the pixels can."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF raises anything, from SyntaxError to struct.error
        return 1


def _on_white(image: Image.Image) -> Image.Image:
    """The image at 8 bits, without transparency."""
    if image.mode.startswith(("I", "F")):  # 16-bit grayscale, which Pillow's own conversion clips
        gray = np.asarray(image).astype(np.float64)
        if image.mode == "F" or gray.min() < 0 or gray.max() > 65535:
            raise ValueError("numbers of more than 16 bits, whose black and white are not known")
        return Image.fromarray(np.rint(gray / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def why_unreadable(error: Exception) -> str:
    """What is wrong with an image, in a few words; damaged files raise anything, from OSError to struct.error."""
    if isinstance(error, UnidentifiedImageError):  # whose own message is about an object in memory
        return "no image of a known kind"
    return " ".join(str(error).split()) or type(error).__name__

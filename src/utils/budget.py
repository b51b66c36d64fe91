"""Limits on the memory that an input file may take, against files crafted to exhaust it."""

from src.utils.errors import UserError

LARGEST_IMAGE = 1 << 29  # bytes of one image file
FREE = 1 << 26  # bytes that any compressed file may decompress to
TIMES = 100  # largest ratio of decompressed to compressed size; that of images and labels is below 20
CLASSES = 1 << 16  # labels must be below this or below the number of images


def check_expansion(packed: int, unpacked: int, what: str) -> None:
    """Refuse a file with an implausible compression ratio.

    Raises:
        UserError: naming the file and the limit.
    """
    if unpacked > max(FREE, TIMES * packed):
        raise UserError(
            f"{what} unpacks from {packed:,} to {unpacked:,} bytes; more than {TIMES} times its size is not read. "
            "Create or copy the file again"
        )

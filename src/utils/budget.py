"""How much of a file is read: nobody's data, but files made to fill a memory, go beyond."""

from src.utils.errors import UserError

LARGEST_IMAGE = 1 << 29  # bytes of the file of one image
FREE = 1 << 26  # bytes that any packed file may unpack to
TIMES = 100  # a packed file may unpack to so many times its size; images and labels stay below 20 times
CLASSES = 1 << 16  # labels may be below this, or below the number of images


def check_expansion(packed: int, unpacked: int, what: str) -> None:
    """Refuse what unpacks to far more bytes than it has.

    Raises:
        UserError: naming it, and the limit.
    """
    if unpacked > max(FREE, TIMES * packed):
        raise UserError(
            f"{what} unpacks from {packed:,} to {unpacked:,} bytes; more than {TIMES} times its size is not read. "
            "It holds no real data: make or copy it again"
        )

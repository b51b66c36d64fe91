"""Errors that the user can fix, shown in one line without a traceback."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What devices and the CPU say where no memory is left.
NO_MEMORY = re.compile("out of memory|can't allocate memory|_ALLOC_FAILED")


class UserError(Exception):
    """An error that the user can fix; the message names its cause and the fix.

    Args:
        message: the message, in one line.
        exit_code: the exit code of the command.
    """

    everywhere = False  # True if every process of the run raises it, so that only one prints it

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code


# Errors of a part for arguments that it does not accept.
OF_VALUES = (ValueError, TypeError, ArithmeticError, LookupError, MemoryError, RuntimeError)


def refusal(part: str, error: BaseException) -> UserError:
    """The UserError for a part of the config that cannot be instantiated."""
    message = str(error) if isinstance(error, UserError | ValueError) else f"{type(error).__name__}: {error}"
    return UserError(f"{part}: {message}")


def not_finite(source: object, name: str) -> UserError:
    """The UserError for a checkpoint with NaN or infinite numbers in the named tensor."""
    return UserError(f"{source} holds numbers that are not finite: {name}. Use an earlier checkpoint")


def is_out_of_memory(error: BaseException) -> bool:
    """True for the error of a device, or of the CPU, without memory; found by its name and its text, without torch."""
    if isinstance(error, UserError):
        return False
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and bool(NO_MEMORY.search(str(error))))
    )


def printable(text: str) -> str:
    r"""Escape the unprintable characters of a text; a byte that is not UTF-8 becomes `\xe9`, for example."""
    if text.isprintable():
        return text
    bytes_ = {c: f"\\x{ord(c) - 0xDC00:02x}" for c in set(text) if "\udc80" <= c <= "\udcff"}
    return "".join(c if c.isprintable() else bytes_.get(c, c.encode("unicode_escape").decode()) for c in text)


@contextmanager
def file_errors(file: object) -> Iterator[None]:
    """Prefix a UserError with the file that it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


@contextmanager
def config_errors(part: str, kinds: tuple[type[Exception], ...] = OF_VALUES) -> Iterator[None]:
    """Re-raise an error as a UserError prefixed with the part of the config that it comes from."""
    try:
        yield
    except kinds as error:
        raise refusal(part, error) from error


# Parts of the paths of files whose lines are not those of a part.
LIBRARIES = ("site-packages", "dist-packages", "importlib", "contextlib.py", "<")
SRC = Path(__file__).parents[1]


def innermost(error: BaseException) -> traceback.FrameSummary | None:
    """The last line of a traceback outside the libraries."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((f for f in reversed(frames) if not any(name in f.filename for name in LIBRARIES)), None)


def place_of(error: BaseException, but: str = "") -> str:
    """That line as ` (FILE, line N)`; nothing if it is in the file `but`."""
    frame = innermost(error)
    return f" ({Path(frame.filename).name}, line {frame.lineno})" if frame and frame.filename != but else ""


def is_in_own_code(error: BaseException) -> bool:
    """True if an error was raised in code of the user's own, or by a library that it calls."""
    frame = innermost(error)
    return frame is not None and SRC not in Path(frame.filename).parents

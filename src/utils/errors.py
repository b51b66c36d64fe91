"""The errors that a user can mend: shown as one line, without a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something in the user's hands is wrong; the message names it and says what to do.

    Args:
        message: one line.
        exit_code: what the command exits with.
    """

    everywhere = False  # whether every process of the run raises it, of which one says it

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code


# What a part raises where it cannot be made of the values that it is given.
OF_VALUES = (ValueError, TypeError, ArithmeticError, LookupError, MemoryError, RuntimeError)


def refusal(part: str, error: BaseException) -> UserError:
    """One line on a part of the config that could not be made."""
    said = str(error) if isinstance(error, UserError | ValueError) else f"{type(error).__name__}: {error}"
    return UserError(f"{part}: {said}")


def not_finite(source: object, name: str) -> UserError:
    """One line on a checkpoint of which this tensor holds NaN or infinite numbers."""
    return UserError(f"{source} holds numbers that are not finite: {name}. Use a checkpoint from before they were")


def printable(text: str) -> str:
    r"""The text in one line that any terminal, log and page takes: a byte that is not UTF-8 as `\xe9`, for example."""
    if text.isprintable():
        return text
    bytes_ = {c: f"\\x{ord(c) - 0xDC00:02x}" for c in set(text) if "\udc80" <= c <= "\udcff"}
    return "".join(c if c.isprintable() else bytes_.get(c, c.encode("unicode_escape").decode()) for c in text)


@contextmanager
def file_errors(file: object) -> Iterator[None]:
    """Say which file a UserError speaks of."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


@contextmanager
def config_errors(part: str, kinds: tuple[type[Exception], ...] = OF_VALUES) -> Iterator[None]:
    """Say of which part of the config an error speaks, raised where the part is made or put together with others."""
    try:
        yield
    except kinds as error:
        raise refusal(part, error) from error

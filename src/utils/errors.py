"""The errors that a user can mend: shown as one line, without a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something in the user's hands is wrong; the message names it and says what to do.

    Args:
        message: one line.
        exit_code: what the command exits with.
    """

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def blame(part: str) -> Iterator[None]:
    """Say of which part of the config a ValueError speaks, raised where the part is put together with others."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{part}: {error}") from error

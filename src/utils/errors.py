"""The errors that a user can mend: shown as one line, without a traceback."""


class UserError(Exception):
    """Something in the user's hands is wrong; the message names it and says what to do.

    Args:
        message: one line.
        exit_code: what the command exits with.
    """

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code

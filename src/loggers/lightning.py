"""Any logger of Lightning, by its name."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning import loggers
from pytorch_lightning.loggers import Logger

from src.utils.errors import UserError


def lightning_logger(name: str, options: Mapping[str, Any] | None = None) -> Logger:
    """Make a logger of pytorch_lightning.loggers, such as CometLogger.

    Args:
        name: name of the class.
        options: its arguments.

    Raises:
        UserError: for an unknown name, and for a logger whose package is not installed.
        TypeError: for arguments that it does not take.
    """
    names = [word for word in loggers.__all__ if word != "Logger"]
    if name not in names:
        raise UserError(f"{name} is no logger of Lightning {pl.__version__}. Choices: {', '.join(names)}")
    try:
        return getattr(loggers, name)(**(options or {}))
    except ImportError as error:
        raise UserError(f"{name} needs a package that is not installed: {error}") from error

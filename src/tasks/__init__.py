"""Tasks of a trained model, by class name: ``from src.tasks import SDEdit``."""

from importlib import import_module
from typing import Any

_MODULES = {
    "Augment": "augment",
    "Denoise": "denoise",
    "Generate": "generate",
    "Interpolate": "interpolate",
    "PosteriorGuided": "inverse_solvers",
    "RePaint": "inverse_solvers",
    "Result": "base",
    "SDEdit": "sdedit",
    "Task": "base",
    "TaskInput": "base",
    "colorize": "inverse_problems",
    "ddnm": "inverse_solvers",
    "deblur": "inverse_problems",
    "dps": "inverse_solvers",
    "inpaint": "inverse_problems",
    "pigdm": "inverse_solvers",
    "super_resolution": "inverse_problems",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

"""Loggers, by class name: ``from src.loggers import MetricsCSV``."""

from importlib import import_module
from typing import Any

_MODULES = {
    "MetricsCSV": "metrics_csv",
    "RunFolderWandbLogger": "wandb",
    "read_metrics": "metrics_csv",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

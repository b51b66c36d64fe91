"""Callbacks of the trainer, by class name: ``from src.callbacks import Progress``."""

from importlib import import_module
from typing import Any

_MODULES = {
    "BestLastCheckpoint": "checkpoint",
    "ConvergenceReport": "convergence",
    "DenoisingTest": "denoising",
    "EMASnapshots": "ema_snapshots",
    "FineTune": "finetune",
    "GracefulStop": "graceful_stop",
    "OptunaPruning": "optuna_pruning",
    "OverfitOneBatch": "overfit_one_batch",
    "Progress": "progress",
    "Quality": "quality",
    "SampleImages": "sample_images",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

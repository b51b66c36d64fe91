"""Data modules, by class name: ``from src.data import MNIST``."""

from importlib import import_module
from typing import Any

_MODULES = {
    "DataModule": "base",
    "Digits": "digits",
    "GaussianMixture": "gaussian_mixture",
    "ImageFolder": "image_folder",
    "MNIST": "mnist",
    "Sine": "sine",
    "TensorSamples": "samples",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

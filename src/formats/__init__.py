"""Formats in which a trained model is exported, by class name: ``from src.formats import SafetensorsFormat``."""

from src.utils.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "DiffusersFormat": "diffusers",
        "Format": "base",
        "Model": "base",
        "ONNXFormat": "graphs",
        "SafetensorsFormat": "safetensors",
        "TorchExportFormat": "graphs",
    },
)

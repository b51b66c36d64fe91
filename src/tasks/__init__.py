"""Tasks of a trained model, by class name: ``from src.tasks import SDEdit``."""

from src.utils.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
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
    },
)

"""Loggers, by class name: ``from src.loggers import MetricsCSV``."""

from src.utils.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "MetricsCSV": "metrics_csv",
        "RunFolderMLFlowLogger": "mlflow",
        "RunFolderWandbLogger": "wandb",
        "lightning_logger": "lightning",
        "read_metrics": "metrics_csv",
    },
)

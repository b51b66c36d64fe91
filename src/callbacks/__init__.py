"""Callbacks of the trainer, by class name: ``from src.callbacks import Progress``."""

from src.utils.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
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
        "SpikeReport": "spikes",
    },
)

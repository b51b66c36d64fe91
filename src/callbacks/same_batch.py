"""Train on the same data in every epoch, in the same order."""

import pytorch_lightning as pl

from src.data.base import EpochBatches


class SameBatch(pl.Callback):
    """Repeats the order of the first epoch; with trainer.limit_train_batches=1, the first batch.

    Lightning's own overfit_batches replaces the sampler by one that knows nothing of batches.
    """

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert trainer.train_dataloader is not None
        batches = trainer.train_dataloader.sampler
        assert isinstance(batches, EpochBatches)
        batches.set_epoch(0)

"""Training on the same batches in every epoch."""

from typing import Any

import pytorch_lightning as pl


class OverfitOneBatch(pl.Callback):
    """Repeat the order of the first epoch; with trainer.limit_train_batches=1, the first batch.

    Lightning's overfit_batches would replace the batch sampler by one that yields single samples.
    """

    def setup(self, trainer: Any, pl_module: pl.LightningModule, stage: str) -> None:
        trainer.datamodule.repeat = True

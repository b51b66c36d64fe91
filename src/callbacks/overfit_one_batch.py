"""Train on the same data in every epoch, in the same order."""

from typing import Any

import pytorch_lightning as pl


class OverfitOneBatch(pl.Callback):
    """Repeat the order of the first epoch; with trainer.limit_train_batches=1, the first batch.

    Lightning's own overfit_batches replaces the sampler by one that knows nothing of batches.
    """

    def setup(self, trainer: Any, pl_module: pl.LightningModule, stage: str) -> None:
        trainer.datamodule.repeat = True

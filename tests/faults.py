"""Ways in which a run can go wrong, as callbacks that tests add to it."""

import os
import signal
from typing import Any

import pytorch_lightning as pl
import torch


class SignalAt(pl.Callback):
    """Sends this process a signal after an optimizer step, or during a validation at that step.

    Args:
        step: optimizer steps made.
        number: the signal; 9 is `kill -9`.
        validating: wait for the validation.
    """

    def __init__(self, step: int, number: int = signal.SIGKILL, validating: bool = False):
        self.step, self.number, self.validating = step, number, validating

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and not self.validating:
            os.kill(os.getpid(), self.number)

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and self.validating:
            os.kill(os.getpid(), self.number)


class PoisonAt(pl.Callback):
    """Sets a weight to NaN before the optimizer step that follows `step`."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            with torch.no_grad():
                next(pl_module.parameters()).fill_(float("nan"))

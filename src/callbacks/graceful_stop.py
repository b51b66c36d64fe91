"""Stop on Ctrl-C and SIGTERM without losing a step."""

import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from src.callbacks.checkpoints import Checkpoints
from src.utils.console import log
from src.utils.errors import UserError


class GracefulStop(pl.Callback):
    """On SIGINT or SIGTERM finishes the step at hand, writes `last.ckpt` and leaves with exit code 128 + signal.

    A second signal of the same kind ends the process at once.

    Args:
        run: the run folder, for the message that says how to resume.
    """

    def __init__(self, run: str):
        self.run = Path(run)
        self.received: int | None = None
        self.previous: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self.receive)

    def receive(self, number: int, frame: Any) -> None:
        self.received = number
        signal.signal(number, signal.SIG_DFL)
        log.info(f"{signal.Signals(number).name}: finishing this step, then saving; once more to end at once")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        stop = self.received is not None
        if trainer.world_size > 1:
            # All processes must leave at the same step; asking at every one would cost a round trip each.
            if trainer.fit_loop.epoch_loop.total_batch_idx % 10:
                return
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if not stop or trainer.fit_loop.epoch_loop._should_accumulate():
            return
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, Checkpoints) and callback.saved_step != trainer.global_step:
                callback.save_last(trainer)
        name = signal.Signals(self.received).name if self.received else "a signal to another process"
        raise UserError(
            f"stopped by {name} at step {trainer.global_step}, which is saved. "
            f"Resume with: python -m src.train resume={self.run}",
            exit_code=128 + (self.received or signal.SIGTERM),
        )

    def restore(self, *_: Any) -> None:
        """Give the signals back to whom they belonged before Lightning does the same."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous.clear()

    on_train_end = restore  # type: ignore[assignment]
    on_exception = restore  # type: ignore[assignment]

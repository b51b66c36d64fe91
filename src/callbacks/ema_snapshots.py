"""Snapshots of the averaged weights during a run, to reconstruct averages of other widths afterwards."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from src.module import DiffusionModule
from src.optim.ema import PowerFunctionEMA
from src.utils.atomic import save_tensors
from src.utils.errors import UserError
from src.utils.ranges import PositiveInt


class EMASnapshots(pl.Callback):
    """Save snapshots of the averages of `ema=power_function` to `step_<N>.pt`; unused with any other `ema`.

    A resumed run leaves the same files as an uninterrupted one.

    Args:
        dirpath: the folder of the snapshots.
        count: number of snapshots, evenly spaced over the run, the last at its end.
        every_n_steps: optimizer steps between two snapshots, instead of `count`.
    """

    def __init__(self, dirpath: str, count: PositiveInt = 20, every_n_steps: PositiveInt | None = None):
        if count < 1 or (every_n_steps is not None and every_n_steps < 1):
            raise ValueError(f"count and every_n_steps must be >= 1, got {count} and {every_n_steps}")
        self.dirpath, self.count, self.every_n_steps = Path(dirpath), count, every_n_steps
        self.planned = 0

    def is_due(self, step: int) -> bool:
        """Return True if a snapshot follows this optimizer step."""
        if self.every_n_steps is not None:
            return step > 0 and step % self.every_n_steps == 0
        return step * self.count // self.planned > (step - 1) * self.count // self.planned

    def path(self, step: int) -> Path:
        return self.dirpath / f"step_{step:06d}.pt"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        if not isinstance(pl_module.ema, PowerFunctionEMA):
            return
        self.planned = pl_module.total_steps()
        if self.planned <= 0 and self.every_n_steps is None:
            raise UserError(
                "ema=power_function needs the number of steps of the run to space its snapshots; "
                "set callbacks.ema_snapshots.every_n_steps, or trainer.max_steps"
            )
        if trainer.is_global_zero:
            for path in self.dirpath.glob("step_*.pt"):  # of steps that the resumed run repeats
                if int(path.stem.removeprefix("step_")) > trainer.global_step:
                    path.unlink()
            if trainer.global_step and not self.path(trainer.global_step).exists():  # killed before it was written
                self.write_if_due(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.is_global_zero and not trainer.fit_loop.epoch_loop._should_accumulate():
            self.write_if_due(trainer, pl_module)

    def write_if_due(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        step = trainer.global_step
        if isinstance(pl_module.ema, PowerFunctionEMA) and self.is_due(step):
            save_tensors(pl_module.ema.snapshot(step), self.path(step), f"the snapshot of step {step}")

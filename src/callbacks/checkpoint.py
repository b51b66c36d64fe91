"""Checkpoints: last.ckpt to resume from, best.ckpt, and those kept at intervals."""

import shutil
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, Timer
from pytorch_lightning.loops.fit_loop import _FitLoop

from src.utils.atomic import atomic_write, partial_path, require_exists
from src.utils.checkpoints import best_checkpoint
from src.utils.files import check
from src.utils.ranges import PositiveInt

# The state that a checkpoint holds; earlier versions may lack some keys.
STATE = {"best?": (float, type(None)), "best_step?": int, "saved_step?": int, "validated_step?": int, "ended?": bool}


class BestLastCheckpoint(Checkpoint):
    """Save `last.ckpt`, and as `best.ckpt` the checkpoint with the lowest validation loss, or the newest.

    `last.ckpt` is written every `every_n_steps` optimizer steps, after every validation, when the run ends and when
    it is stopped. Two of Lightning's ModelCheckpoints would come close, but write a checkpoint that falls on a
    validation before it, and a run resumed from there never validates at that step.

    Where a lower loss does not mean better weights (`Loss.ranks_checkpoints`), `best.ckpt` is the newest.

    Args:
        dirpath: the folder of the checkpoints.
        monitor: the metric; its lowest value is the best.
        every_n_steps: optimizer steps between two writes.
        keep_every_n_steps: also keep a `step_<N>.ckpt` for each multiple N of this; None keeps none.
    """

    def __init__(
        self,
        dirpath: str,
        monitor: Literal["val/loss_ema", "val/loss_raw"] = "val/loss_ema",
        every_n_steps: PositiveInt = 500,
        keep_every_n_steps: PositiveInt | None = None,
    ):
        if keep_every_n_steps is not None and keep_every_n_steps < 1:
            raise ValueError(f"callbacks.checkpoint.keep_every_n_steps must be >= 1 or null, got {keep_every_n_steps}")
        self.dirpath, self.monitor, self.every_n_steps = Path(dirpath), monitor, every_n_steps
        self.keep_every_n_steps = keep_every_n_steps
        self.best: float | None = None
        self.best_step, self.saved_step, self.validated_step = 0, 0, 0
        self.ended = False  # True if the run ended at the last checkpoint, before its planned length

    @property
    def last_path(self) -> Path:
        return self.dirpath / "last.ckpt"

    @property
    def best_path(self) -> Path:
        return self.dirpath / "best.ckpt"

    def is_kept(self, step: int) -> bool:
        """Return True if the checkpoint of this step is kept."""
        return self.keep_every_n_steps is not None and step % self.keep_every_n_steps == 0

    def save_last(self, trainer: pl.Trainer) -> None:
        """Write last.ckpt, and before it the metrics logged so far.

        Raises:
            UserError: if the run folder was removed.
        """
        require_exists(self.dirpath.parent, self.dirpath.name)
        for logger in trainer.loggers:
            logger.save()
        self.saved_step = trainer.global_step
        module: Any = trainer.lightning_module
        early = trainer.global_step != module.total_steps()
        self.ended = trainer.should_stop and early and not out_of_time(trainer)
        if self.is_kept(trainer.global_step):  # before the one to resume from, so that a kill in between loses neither
            trainer.save_checkpoint(self.dirpath / f"step_{trainer.global_step}.ckpt")
        trainer.save_checkpoint(self.last_path)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Complete a run that was killed right after a checkpoint.

        Copy the checkpoint to `best.ckpt` and, after the last step, repeat the last validation for the results that
        callbacks compute from it; its metrics are logged already.
        """
        if trainer.is_global_zero:
            self.dirpath.mkdir(parents=True, exist_ok=True)
            if self.best_step == trainer.global_step and best_checkpoint(self.dirpath) == self.last_path:
                copy_checkpoint(self.last_path, self.best_path)
        trainer.strategy.barrier("best checkpoint")
        if trainer.max_steps == 0:  # a pretrained model is validated and saved as it is
            self.validated_step = -1
        if isinstance(trainer.fit_loop, Finishing) and (self.ended or trainer.fit_loop.done):
            trainer.should_stop = True
            validate(trainer, log=self.validated_step != trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.fit_loop.epoch_loop._should_accumulate():
            return  # the gradients accumulated so far would be lost
        new = trainer.global_step - self.saved_step
        due = new >= self.every_n_steps or (new > 0 and self.is_kept(trainer.global_step))
        if due and not is_validated_next(trainer):
            self.save_last(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit" or self.validated_step == trainer.global_step:
            return  # the last condition: no step since the previous validation
        self.validated_step = trainer.global_step
        value = float(trainer.callback_metrics[self.monitor])
        module: Any = pl_module
        is_best = self.best is None or value < self.best or not module.loss.ranks_checkpoints
        if is_best:
            self.best, self.best_step = value, trainer.global_step
        if trainer.fit_loop.epoch_loop._should_accumulate():
            if is_best:
                trainer.save_checkpoint(self.best_path)
            return
        self.save_last(trainer)
        if is_best and trainer.is_global_zero:
            copy_checkpoint(self.last_path, self.best_path)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step != self.saved_step:
            self.save_last(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # trainer.max_time counts from each start; a resumed run must not stop at once.
        checkpoint["callbacks"].pop("Timer", None)

    def state_dict(self) -> dict[str, Any]:
        return {name.rstrip("?"): getattr(self, name.rstrip("?")) for name in STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        check(state_dict, STATE, "callbacks.BestLastCheckpoint")
        vars(self).update(state_dict)


class Finishing(_FitLoop):
    """The fit loop of a resumed run, which calls the callbacks even if no step is left."""

    @property
    def skip(self) -> bool:
        return False


def out_of_time(trainer: pl.Trainer) -> bool:
    """Return True if trainer.max_time has passed since this start."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    left = [timer.time_remaining() for timer in timers]  # None for a timer that only measures
    return any(seconds is not None and seconds <= 0 for seconds in left)


def validate(trainer: pl.Trainer, log: bool) -> None:
    """Run a validation before the first step, as Lightning does between two steps.

    Args:
        trainer: the trainer, before its first step.
        log: True to log the metrics.
    """
    loop = trainer.fit_loop.epoch_loop
    if not loop._should_check_val_epoch():
        return
    loggers, trainer.loggers = trainer.loggers, trainer.loggers if log else []
    trainer.validating = True
    loop.val_loop.restarting = False
    loop.val_loop.run()
    trainer.training = True
    trainer.loggers = loggers


def is_validated_next(trainer: pl.Trainer) -> bool:
    """Return True if a validation follows the batch that has just ended."""
    assert trainer.fit_loop._data_fetcher is not None
    return trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)


def copy_checkpoint(source: Path, target: Path) -> None:
    """Replace a checkpoint, a file or a folder of sharded weights, by a copy of another."""
    with atomic_write(target, partial_path(target)) as partial:
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, partial)

"""Stop on Ctrl-C, SIGTERM, a closed terminal or SLURM's warning without losing a step."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from src.callbacks.checkpoint import BestLastCheckpoint, is_validated_next
from src.utils.console import log
from src.utils.errors import UserError
from src.utils.override_syntax import assignment, command
from src.utils.processes import STOPPING


class GracefulStop(pl.Callback):
    """Finish the step on a signal, write `last.ckpt` and exit with code 128 + signal.

    The signals are SIGINT, SIGTERM, SIGUSR1 and, unless it is ignored as under `nohup`, SIGHUP. A validation after the
    step is finished, too, since a resumed run would not repeat it. A second signal of the same kind ends the process at
    once. After SIGUSR1 a SLURM job is requeued, and the same command with auto_resume=true resumes it. After SIGTERM it
    is not: `scancel` sends that, and SLURM requeues preempted jobs by itself.

    Args:
        run: the run folder, for the message on how to resume.
    """

    def __init__(self, run: str):
        self.run = Path(run)
        self.received: int | None = None
        self.after_validation = 0
        self.previous: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for number in STOPPING:
            if number != getattr(signal, "SIGHUP", None) or signal.getsignal(number) != signal.SIG_IGN:
                self.previous[number] = signal.signal(number, self.receive)

    def receive(self, number: int, frame: Any) -> None:
        self.received = number
        signal.signal(number, signal.SIG_DFL)
        log.info(f"{signal.Signals(number).name}: finishing this step, then saving; send it again to end at once")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        number = self.received or 0
        if trainer.world_size > 1:
            # All processes must stop at the same step; a reduction at every step would cost time.
            if trainer.fit_loop.epoch_loop.total_batch_idx % 10:
                return
            number = int(trainer.strategy.reduce(torch.tensor(number, device=pl_module.device), reduce_op="max"))
        if not number or trainer.fit_loop.epoch_loop._should_accumulate() or trainer.should_stop:
            return
        if is_validated_next(trainer):
            self.after_validation = number
        else:
            self.stop(trainer, number)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if self.after_validation:
            self.stop(trainer, self.after_validation)

    def stop(self, trainer: pl.Trainer, number: int) -> None:
        """Save the last step, unless it is saved, and end the run."""
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, BestLastCheckpoint) and callback.saved_step != trainer.global_step:
                callback.save_last(trainer)
        queued = number == STOPPING[-1] and trainer.is_global_zero and requeue()
        raise UserError(
            f"stopped by {signal.Signals(number).name} at step {trainer.global_step}, which is saved. "
            + (queued or f"Resume with: {command('train', assignment('resume', self.run))}"),
            exit_code=128 + number,
        )

    def restore(self, *_: Any) -> None:
        """Restore the previous signal handlers, before Lightning does."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous.clear()

    on_train_end = restore  # type: ignore[assignment]
    on_exception = restore  # type: ignore[assignment]


def requeue() -> str | None:
    """Requeue this SLURM job; return a message on the result, or None outside SLURM."""
    if "SLURM_JOB_ID" not in os.environ:
        return None
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        return f"SLURM did not requeue job {job}: {reason}"
    return f"Job {job} is requeued; with auto_resume=true it resumes from here"

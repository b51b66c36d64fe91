"""Ways in which a run can go wrong, as callbacks that tests add to it."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
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


def dies_at(step: int) -> Callable[[], None]:
    """What makes this process die as by `kill -9` after an optimizer step, of which its config says nothing."""

    def watch() -> None:
        from src.callbacks.progress import Progress

        before, fault = Progress.on_train_batch_start, SignalAt(step)

        def on_train_batch_start(self: Progress, trainer: pl.Trainer, *rest: Any) -> None:
            fault.on_train_batch_start(trainer)
            before(self, trainer, *rest)

        Progress.on_train_batch_start = on_train_batch_start

    return watch


class PoisonAt(pl.Callback):
    """Sets a weight to NaN before the optimizer step that follows `step`."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            with torch.no_grad():
                next(pl_module.parameters()).fill_(float("nan"))


def die_before(folder: Path, number: int, note: Path | None = None) -> Callable[[], None]:
    """What makes this process die as by `kill -9` before the numbered change of files in a folder, counted from 0.

    Args:
        folder: where changes count: files opened to be written, moves, removals and new folders.
        number: of the change; -1 for none.
        note: a file that is told of each change, a line each.
    """
    count = iter(range(10**9))

    def watch(event: str, args: tuple) -> None:
        if event == "open" and not (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"):
            return
        if not str(args[0]).startswith(f"{folder}{os.sep}"):
            return
        if note is not None:
            os.write(told, f"{event} {str(args[0]).removeprefix(f'{folder}{os.sep}')}\n".encode())
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    told = -1 if note is None else os.open(note, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return lambda: sys.addaudithook(watch)

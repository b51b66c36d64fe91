"""Whether a run has converged."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger

from src.loggers.metrics_csv import read_metrics
from src.statistics.convergence import verdict

PAUSE = 20.0  # seconds at least between two readings of the metrics, which grow


class ConvergenceVerdict(pl.Callback):
    """Convergence status, "improving" or "plateaued since step k", from the trend of the loss at each noise level.

    As a text in TensorBoard while the run trains, and in the summary and run.json at its end; see
    :mod:`src.statistics.convergence`.

    Args:
        run: the run folder, whose metrics.csv it reads.
    """

    def __init__(self, run: str):
        self.run = Path(run)
        self.read = -PAUSE
        self.results: dict[str, Any] = {}
        self.report: list[tuple[str, str]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"said": self.read > 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["said"]:  # it is not said again for being started anew
            self.read = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or time.monotonic() - self.read < PAUSE:
            return
        self.say(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.say(trainer)

    def say(self, trainer: pl.Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()
        self.read = time.monotonic()
        file = self.run / "metrics.csv"
        if not file.exists():
            return
        found = verdict(read_metrics(file))
        self.report = [("verdict", found.text)]
        levels = "".join(f"\n\n- log-SNR {name}: {fall:+.1%}" for name, fall in found.falls.items() if name != "all")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                text = found.text + (
                    f"\n\nFall of the loss in the last third, by noise level:{levels}" if levels else ""
                )
                logger.experiment.add_text("verdict", text, trainer.global_step)

"""Convergence status of a run, from the trend of its validation loss."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger

from src.loggers.metrics_csv import read_metrics
from src.statistics.convergence import convergence_status
from src.utils.console import tolerating

PAUSE = 20.0  # minimum seconds between two readings of metrics.csv, which grows
PATIENCE = 50  # the pause is also this many times as long as the last reading took: 2 % of the time at most


class ConvergenceReport(pl.Callback):
    """Convergence status, "improving" or "plateaued since step k", from the trend of the loss at each noise level.

    Written as text to TensorBoard while the run trains, and to the summary and run.json at its end; see
    :mod:`src.statistics.convergence`. Nothing is said of a loss whose value does not rank checkpoints.

    Args:
        run: the run folder, whose metrics.csv is read.
    """

    def __init__(self, run: str):
        self.run = Path(run)
        self.last_report, self.pause = -PAUSE, PAUSE
        self.results: dict[str, Any] = {}
        self.report: list[tuple[str, str]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"reported": self.last_report > 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["reported"]:  # a resumed run does not repeat it at once
            self.last_report = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or self.is_recent():
            return
        with tolerating("the convergence report"):
            self.write_report(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            with tolerating("the convergence report"):
                self.write_report(trainer)

    def is_recent(self) -> bool:
        """True if the last report was written a moment ago."""
        return time.monotonic() - self.last_report < self.pause

    def write_report(self, trainer: pl.Trainer) -> None:
        """Set `report` from metrics.csv, and write it to TensorBoard."""
        module: Any = trainer.lightning_module
        if not module.loss.ranks_checkpoints:  # it may rise while the model becomes better
            return
        began = time.monotonic()
        for logger in trainer.loggers:
            logger.save()
        self.last_report = began
        file = self.run / "metrics.csv"
        if not file.exists():
            return
        status = convergence_status(read_metrics(file))
        self.report = [("convergence", status.text)]
        decreases = {name: d for name, d in status.relative_decrease.items() if name != "all"}
        levels = "".join(f"\n\n- log-SNR {name}: {d:+.1%}" for name, d in decreases.items())
        if levels:
            levels = f"\n\nDecrease of the loss in the last third of the run, by noise level:{levels}"
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("convergence", status.text + levels, trainer.global_step)
        self.last_report = time.monotonic()
        self.pause = max(PAUSE, PATIENCE * (self.last_report - began))

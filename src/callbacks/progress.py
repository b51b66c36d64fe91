"""Progress bar and throughput of a run."""

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from src.module import DiffusionModule
from src.utils.console import progress_bar


class Progress(ProgressBar):
    """Progress bar over the whole run, with loss, speed and time left.

    Also logs `train/samples_per_second` and `train/seconds`, the training time without validation and plots.

    Args:
        unit: name of the samples, in the plural.
    """

    def __init__(self, unit: str = "samples"):
        super().__init__()
        self.unit = unit
        self.shown = True
        self.bar: tqdm | None = None
        self.samples, self.since, self.rate = 0, 0.0, 0.0
        self.loss = ""
        self.total_samples, self.total_seconds = 0, 0.0
        self.began, self.before = time.perf_counter(), 0.0

    @property
    def elapsed(self) -> float:
        """Seconds of the whole run, including validation and plots, without time lost in a kill."""
        return self.before + time.perf_counter() - self.began

    def state_dict(self) -> dict[str, Any]:
        return {"samples": self.total_samples, "seconds": self.total_seconds, "elapsed": self.elapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.total_samples, self.total_seconds = state_dict["samples"], state_dict["seconds"]
        self.before = state_dict.get("elapsed", self.total_seconds)

    def enable(self) -> None:
        self.shown = True

    def disable(self) -> None:
        self.shown = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.began = time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        total = pl_module.total_steps()
        self.bar = progress_bar(
            total if total > 0 else None,
            "training  ",
            initial=trainer.global_step,
            disable=not (self.shown and trainer.is_global_zero),
            smoothing=0.05,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
        )
        self.since = time.perf_counter()

    def end_interval(self) -> None:
        """Add the samples and seconds since the last call to the totals."""
        now = time.perf_counter()
        if self.samples:
            self.rate = self.samples / (now - self.since)
            self.total_samples += self.samples
            self.total_seconds += now - self.since
        self.samples, self.since = 0, now

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, DiffusionModule) and self.bar is not None
        self.samples += len(batch["x"]) * trainer.world_size
        if trainer.fit_loop.epoch_loop._should_accumulate():
            return
        logged = pl_module.is_logging_step(trainer.global_step)
        if logged:
            self.end_interval()
            pl_module.log_metrics({"train/samples_per_second": self.rate, "train/seconds": self.total_seconds})
        if self.bar.disable:
            return
        shown = self.bar.n + 1 - self.bar.last_print_n >= self.bar.miniters
        # An accelerator is waited for only where the loss is logged, too.
        if logged or (shown and pl_module.device.type == "cpu"):
            self.loss = f"loss {outputs['loss'].item():.4g}, "
        if shown:
            rate = self.rate or self.samples / (time.perf_counter() - self.since)
            self.bar.set_postfix_str(f"{self.loss}{rate:.0f} {self.unit}/s", refresh=False)
        self.bar.update(1)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.end_interval()
        if not trainer.sanity_checking:
            assert isinstance(pl_module, DiffusionModule)
            pl_module.log_metrics({"train/seconds": self.total_seconds})
        if self.bar is not None:
            self.bar.set_description_str("validating", refresh=sys.stderr.isatty())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.since = time.perf_counter()  # validation and plots are not training
        if self.bar is not None:
            self.bar.set_description_str("training  ", refresh=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.bar is not None:
            self.bar.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)

    @property
    def mean_rate(self) -> float:
        """Mean samples per second of training, without validation and plots."""
        return self.total_samples / max(self.total_seconds, 1e-9)

"""Runs of a tiny model, each of whose checkpoints is kept, so that it can be resumed from all of them."""

import shutil
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch

from src.callbacks.checkpoint import BestLastCheckpoint
from src.loggers.metrics_csv import MetricsCSV, read_metrics
from src.optim.ema import PowerFunctionEMA
from src.utils.loop_counters import go_on_between_batches
from tests.end_to_end.running import assert_same
from tests.helpers.tiny import KINDS, fit, make_kind, make_module

MODULES = {kind: partial(make_kind, kind) for kind in KINDS} | {
    "power": partial(make_module, dropout=0.3, average=PowerFunctionEMA)
}


class Place(NamedTuple):
    """What a kill leaves: a checkpoint, and what was logged before it, where anything was."""

    checkpoint: Path
    metrics: Path


class Keep(BestLastCheckpoint):
    """Keeps a copy of each `last.ckpt`, by its step."""

    def __init__(self, folder: Path, every_n_steps: int):
        super().__init__(str(folder), every_n_steps=every_n_steps)
        self.places: dict[int, Place] = {}

    def save_last(self, trainer: pl.Trainer) -> None:
        super().save_last(trainer)
        place = Place(*(self.dirpath / f"{trainer.global_step}{suffix}" for suffix in (".ckpt", ".csv")))
        self.last_path.rename(place.checkpoint)
        self.last_path.symlink_to(place.checkpoint)
        if (self.dirpath / "metrics.csv").exists():
            shutil.copy(self.dirpath / "metrics.csv", place.metrics)
        self.places[trainer.global_step] = place


class Order(pl.Callback):
    """Notes the epoch, the place in it, and the samples of each batch, by the number of the batch in the run."""

    def __init__(self) -> None:
        self.batches: dict[int, Any] = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        count = trainer.fit_loop.epoch_loop.total_batch_idx
        self.batches[count] = (trainer.current_epoch, batch_idx, batch["x"].flatten().tolist())


class Ended(NamedTuple):
    """What came of a run."""

    places: dict[int, Place]
    batches: dict[int, Any]
    rows: list[dict[str, float]]


def run(
    folder: Path,
    make: Any,
    data: pl.LightningDataModule,
    every: int = 1,
    begin: Place | None = None,
    callbacks: Sequence[pl.Callback] = (),
    **settings: Any,
) -> Ended:
    """A run to its end, from its start or from where another one was killed."""
    folder.mkdir()
    keep, order, metrics = Keep(folder, every), Order(), MetricsCSV(str(folder))
    if begin is not None and begin.metrics.exists():
        shutil.copy(begin.metrics, folder / "metrics.csv")
        metrics.rewind(load(begin)["global_step"])
    settings = {"log_every_n_steps": 2, "logger": [metrics]} | settings
    fit(folder, make(), data, [keep, order, *callbacks], begin and begin.checkpoint, **settings)
    return Ended(keep.places, order.batches, read_metrics(folder / "metrics.csv"))


def load(place: Place) -> dict[str, Any]:
    return torch.load(place.checkpoint, weights_only=True)


def taken_up(place: Place, batches: int, by_steps: bool) -> dict[str, Any]:
    """A checkpoint as Lightning is given it when a run goes on, where `batches` are an epoch."""
    checkpoint = load(place)
    loops = deepcopy(checkpoint.pop("loops")["fit_loop"])
    position = go_on_between_batches(loops, batches, by_steps)
    kept = ("epoch_progress", "epoch_loop.batch_progress", "epoch_loop.state_dict")
    return checkpoint | {"position": position, "loops": {name: loops[name] for name in kept}}


def assert_goes_on(whole: Ended, part: Ended, batches: int, by_steps: bool) -> None:
    """What a run that began in the midst wrote and was given is what an undisturbed one was, to the last bit."""
    assert part.places and set(part.places) <= set(whole.places)
    assert_same({count: whole.batches[count] for count in part.batches}, part.batches, "batches")
    for step, place in part.places.items():
        assert_same(*(taken_up(p, batches, by_steps) for p in (whole.places[step], place)), f"checkpoint {step}")
    assert_same(whole.rows, part.rows, "metrics.csv")

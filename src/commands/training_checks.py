"""Checks of a run before its training starts: its data, net, callbacks and sharding."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from src.callbacks.checkpoint import BestLastCheckpoint
from src.callbacks.denoising import DenoisingTest
from src.callbacks.finetune import FineTune
from src.callbacks.progress import Progress
from src.callbacks.quality import Quality
from src.data.base import DataModule
from src.diffusion.conditions import Condition, Labels
from src.module import DiffusionModule
from src.optim.ema import PowerFunctionEMA
from src.runs.data_identity import data_changes
from src.runs.loading import build_denoiser
from src.runs.run import Run
from src.utils.errors import UserError, config_errors

# The callbacks that write checkpoints and results.
REQUIRED_CALLBACKS = {"checkpoint": BestLastCheckpoint, "progress": Progress}
# The results of any run, which sweep.objective may name.
RESULTS = ("best_val_loss", "best_step", "steps", "seconds", "samples_per_second", "parameters")


def check_data_unchanged(run: Run, data: DataModule, allowed: bool) -> None:
    """Refuse to resume a run with changed data, or warn of the change if `allowed`.

    Raises:
        UserError: naming what has changed.
    """
    changed = data_changes(run.metadata().get("data_identity"), data.identity())
    if changed and not allowed:
        raise UserError(
            f"{changed}. Restore the data, or resume with the changed data by resume_changed_data=true; samples that "
            "were trained on may then be validated on"
        )
    if changed:
        data.warn(changed)


def check_data_range(module: DiffusionModule, data: DataModule) -> None:
    """Refuse data outside the range that a likelihood loss discretizes.

    Raises:
        UserError: naming the range.
    """
    if getattr(module.loss, "bounded_data", False):
        with config_errors("loss"):
            module.loss.check_data(data.val_set[0, torch.arange(min(64, len(data.val_set)))]["x"])


def check_objective(names: Any, callbacks: list[pl.Callback]) -> None:
    """Refuse a `sweep.objective` that the run will not produce.

    Raises:
        UserError: naming it.
    """
    for name in [names] if isinstance(names, str) else names:
        if "/" not in name and name not in RESULTS:
            there = ", ".join(RESULTS)
            raise UserError(
                f"sweep.objective={name} is no result of a run. Choices: {there}, quality/frechet_distance and so on"
            )
        if name.startswith("quality/") and not any(isinstance(c, Quality) for c in callbacks):
            raise UserError(f"sweep.objective={name} is computed by callbacks=quality only; add it")


def check_net_size(cfg: DictConfig, memory: float | None) -> None:
    """Refuse a net that does not fit in memory, built on the meta device: a real one would exhaust the machine.

    Args:
        cfg: the resolved config.
        memory: bytes of this machine; None if unknown.

    Raises:
        UserError: naming the number of parameters.
    """
    number = 0
    try:
        number = sum(p.numel() for p in build_denoiser(cfg, torch.device("meta")).parameters())
    except Exception as error:  # other errors are reported when the parts are built
        if "overflow" in str(error):
            raise UserError("net: one of its tensors has more than 2^63 bytes; use a smaller net") from error
    if memory is not None and 8 * number > memory:  # float32, and an average of it
        raise UserError(
            f"net: {number:,} parameters and their average take {8 * number / 2**30:,.0f} GiB, but this machine has "
            f"{memory / 2**30:,.0f}; use a smaller net"
        )


def check_callbacks(callbacks: list[pl.Callback], module: DiffusionModule, source: Path | None) -> None:
    """Refuse a run without the callbacks that write its results, or a finetuning one without initial weights.

    Raises:
        UserError: naming the callback.
    """
    for name, kind in REQUIRED_CALLBACKS.items():
        if not any(isinstance(callback, kind) for callback in callbacks):
            raise UserError(f"callbacks.{name} is required: it writes the results of the run; leave it in")
    for callback in callbacks:
        if isinstance(callback, FineTune):
            callback.check(module)
            if source is None:
                raise UserError("callbacks=finetune needs the weights of an earlier run; name it by init_from=RUN")


def check_labels(condition: Condition, data: DataModule) -> None:
    """Refuse a condition on another number of labels than the data have.

    Raises:
        UserError: naming both numbers.
    """
    if isinstance(condition, Labels) and condition.num_classes != data.num_classes:
        raise UserError(
            f"condition.num_classes must be data.num_classes={data.num_classes}, got {condition.num_classes}; leave it "
            "out"
        )


def check_batches(trainer: Any, data: DataModule) -> None:
    """Refuse fractions of an epoch of less than one batch, and a validation interval longer than an epoch.

    Raises:
        UserError: naming the setting, and the number of batches.
    """
    epoch = data.train_batches
    for name in ("limit_train_batches", "limit_val_batches", "val_check_interval"):
        share = getattr(trainer, name)
        batches = -(-len(data.val_set) // data.batch_size) if name == "limit_val_batches" else epoch
        if isinstance(share, float) and int(share * batches) < 1:
            raise UserError(f"trainer.{name} must be >= {1 / batches:.2g}, one of {batches} batches, got {share}")
    every = trainer.val_check_interval
    if trainer.check_val_every_n_epoch is not None and isinstance(every, int) and every > epoch:
        raise UserError(
            f"trainer.val_check_interval must be <= {epoch}, the batches of an epoch, got {every}; "
            "use trainer.check_val_every_n_epoch=null to count batches over epochs"
        )


def check_sharding(module: DiffusionModule, callbacks: list[pl.Callback]) -> None:
    """Refuse parts that need all weights on one process, which FSDP splits among several.

    Raises:
        UserError: naming the first such part.
    """
    alone = [type(c).__name__ for c in callbacks if isinstance(c, Quality | DenoisingTest | FineTune)]
    if isinstance(module.ema, PowerFunctionEMA):
        alone.append("ema=power_function, whose snapshots one process writes")
    if any(True for _ in module.denoiser.schedule.parameters()):
        alone.append("schedule=learned, which all processes read between two steps")
    if alone:
        raise UserError(f"trainer=fsdp splits the weights, but all of them are needed by {alone[0]}; use trainer=ddp")

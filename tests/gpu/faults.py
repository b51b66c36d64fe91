"""What a run is put through on purpose, as callbacks."""

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision

from src.module import DiffusionModule


class Overflow(pl.Callback):
    """Makes the gradient of one weight infinite at one step, as float16 does, and writes what became of it.

    Args:
        file: a JSON file: the scale before and after, how far the step moved the weights and their average, whether
            all are finite, the learning rates, and the steps counted.
        step: optimizer steps made before.
    """

    def __init__(self, file: str, step: int):
        self.file, self.step = Path(file), step
        self.before: dict[str, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Where there is no GPU, Lightning turns float16 into bf16; the scaler of the CPU does the same work."""
        if trainer.strategy.root_device.type == "cpu":
            trainer.strategy._precision_plugin = MixedPrecision("16-mixed", "cpu")

    def state(self, trainer: pl.Trainer, module: DiffusionModule) -> dict[str, Any]:
        weights, averages = (
            torch.cat([p.detach().flatten().float() for p in model.parameters()]) for model in module.models.values()
        )
        plugin: Any = trainer.precision_plugin
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        return {"weights": weights, "averages": averages, "scale": plugin.scaler.get_scale(), "lr": lr}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, DiffusionModule)
        if trainer.global_step == self.step and not self.before:
            self.before = self.state(trainer, pl_module)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == self.step and not self.file.exists():
            p = next(p for p in pl_module.parameters() if p.grad is not None)
            p.grad.fill_(float("inf"))  # type: ignore[union-attr]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, DiffusionModule)
        if not self.before or self.file.exists():
            return
        after = self.state(trainer, pl_module)
        found: dict[str, Any] = {"weights moved": float((after["weights"] - self.before["weights"]).abs().max())}
        found["finite"] = bool(after["weights"].isfinite().all() and after["averages"].isfinite().all())
        found["average farther"] = float(
            (after["averages"] - after["weights"]).norm() - (self.before["averages"] - self.before["weights"]).norm()
        )
        found |= {"scale before": self.before["scale"], "scale after": after["scale"]}
        found |= {"lr before": self.before["lr"], "lr after": after["lr"], "steps counted": trainer.global_step}
        self.file.write_text(json.dumps(found))

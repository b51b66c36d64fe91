"""Train the last layers of a net that was trained before, and say what that did."""

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BaseFinetuning
from torch import nn

from src.data.base import DataModule
from src.module import DiffusionModule
from src.utils.errors import UserError
from src.utils.seeding import generator

BATCH, MOST = 500, 5000


class FineTune(BaseFinetuning):
    """Freezes all layers of the net but the last ones; measures the validation error before and after.

    A layer is a module with parameters of its own; they come in the order in which the net defines them. The note goes
    to run.json.

    Args:
        layers: how many are trained.
    """

    def __init__(self, layers: int = 4):
        super().__init__()
        self.layers = layers
        self.before: float | None = None
        self.results: dict[str, float] = {}
        self.report: list[tuple[str, str]] = []

    def check(self, module: DiffusionModule) -> None:
        """Refuse a depth that the net does not have.

        Raises:
            UserError: naming how many layers there are.
        """
        there = len(layers_of(module.denoiser.net))
        if not 1 <= self.layers <= there:
            raise UserError(
                f"callbacks.finetune.layers={self.layers}, but the net has {there} layers; use 1 to {there}"
            )

    def freeze_before_training(self, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        self.check(pl_module)
        for layer in list(layers_of(pl_module.denoiser.net).values())[: -self.layers]:
            self.freeze_module(layer)

    def finetune_function(self, pl_module: pl.LightningModule, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        """Nothing thaws on the way."""

    def state_dict(self) -> dict:
        return super().state_dict() | {"before": self.before}

    def load_state_dict(self, state_dict: dict) -> None:
        self.before = state_dict.pop("before")
        super().load_state_dict(state_dict)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.before is None:
            self.before = validation_mse(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule) and self.before is not None
        net, after = pl_module.denoiser.net, validation_mse(trainer, pl_module)
        trained = list(layers_of(net))[-self.layers :]
        number = sum(p.numel() for p in net.parameters() if p.requires_grad)
        of = sum(p.numel() for p in net.parameters())
        self.results = {"val/mse_before": self.before, "val/mse": after}
        change = 100 * (after / self.before - 1)
        self.report = [
            ("fine-tuned", f"{', '.join(trained)}: {number:,} of {of:,} parameters"),
            ("error", f"validation MSE {self.before:.5g} before, {after:.5g} after ({change:+.1f} %)"),
        ]


def layers_of(net: nn.Module) -> dict[str, nn.Module]:
    """The modules with parameters of their own, by name."""
    return {name or "net": m for name, m in net.named_modules() if any(True for _ in m.parameters(recurse=False))}


@torch.no_grad()
def validation_mse(trainer: pl.Trainer, module: pl.LightningModule) -> float:
    """The mean squared error of the averaged model's x_0 on validation data, at the times that it is validated at.

    In the units of the data: images are [0, 1].
    """
    assert isinstance(module, DiffusionModule)
    data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
    model, n = module.models["ema"].eval(), min(MOST, len(data.val_set))
    total = 0.0
    for first in range(0, n, BATCH):
        batch, g = data.val_set[0, torch.arange(first, min(first + BATCH, n))], generator("validation mse", first)
        x_0 = batch["x"].to(module.device)
        label = batch["label"].to(module.device) if module.conditional else None
        t = module.times.for_validation()(len(x_0), g, model.schedule)
        x_t = model.schedule.add_noise(x_0, t, torch.randn(x_0.shape, generator=g).to(x_0))
        total += (model(x_t, t, label).x_0 - x_0).square().flatten(1).mean(1).sum().item()
    return total / n / (4 if len(data.size) == 2 else 1)

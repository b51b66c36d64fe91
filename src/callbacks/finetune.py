"""Fine-tune the last layers of a pretrained network."""

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BaseFinetuning
from torch import nn

from src.callbacks.denoising import denoise
from src.data.base import DataModule
from src.module import DiffusionModule
from src.utils.errors import UserError
from src.utils.ranges import PositiveInt

MAX_SAMPLES = 5000  # maximum number of validation samples for the error


class FineTune(BaseFinetuning):
    """Freeze all layers of the network except the last, and measure the validation error before and after.

    A layer is a module with parameters of its own; layers are in the order in which the network defines them. Both
    errors are written to run.json.

    Args:
        layers: number of layers that are trained.
    """

    def __init__(self, layers: PositiveInt = 4):
        super().__init__()
        self.layers = layers
        self.before: float | None = None
        self.results: dict[str, float] = {}
        self.report: list[tuple[str, str]] = []

    def check(self, module: DiffusionModule) -> None:
        """Check the number of layers.

        Raises:
            UserError: if the network has fewer.
        """
        there = len(layers_of(module.denoiser.net))
        if not 1 <= self.layers <= there:
            raise UserError(
                f"callbacks.finetune.layers must be between 1 and {there}, the layers of the net, got {self.layers}"
            )

    def freeze_before_training(self, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        self.check(pl_module)
        for layer in list(layers_of(pl_module.denoiser.net).values())[: -self.layers]:
            self.freeze_module(layer)

    def finetune_function(self, pl_module: pl.LightningModule, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        """Leave the layers frozen in all epochs."""

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


def validation_mse(trainer: pl.Trainer, module: pl.LightningModule) -> float:
    """The mean squared error of x_0 by the averaged weights on validation data, at the times of validation.

    It is in the units of the data: images are [0, 1].
    """
    assert isinstance(module, DiffusionModule)
    data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
    found = denoise(module, data.val_set, min(MAX_SAMPLES, len(data.val_set)))
    original, denoised = (data.to_units(x, clip=False) for x in (found.original, found.denoised))
    return (original - denoised).square().mean().item()

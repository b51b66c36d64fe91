"""The denoising error of a trained model on held-out data."""

from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from src.data.base import DataModule
from src.data.samples import BatchDataset
from src.module import DiffusionModule
from src.statistics.image_quality import image_quality
from src.utils.console import tolerating
from src.utils.ranges import PositiveInt
from src.utils.seeding import generator

BATCH_SIZE = 500  # the noise depends on it


class Denoised(NamedTuple):
    """Samples (N, C, *S) in the units of the model, on the CPU; the noisy ones are x_t / alpha."""

    original: Tensor
    noisy: Tensor
    denoised: Tensor


@torch.no_grad()
def denoise(module: DiffusionModule, data: BatchDataset, n: int) -> Denoised:
    """Denoise the first n samples with the averaged weights, in one evaluation each, at the times of validation.

    Noise and times are the same in every call.
    """
    model, parts = module.models["ema"].eval(), []
    for first in range(0, n, BATCH_SIZE):
        batch = data[0, torch.arange(first, min(first + BATCH_SIZE, n))]
        g = generator("denoising test", first)  # the string is part of the seed
        x_0, cond = batch["x"], model.condition({name: part.to(module.device) for name, part in batch.items()})
        t = module.time_sampler.for_validation()(len(x_0), g, model.schedule)
        x_t = model.schedule.add_noise(x_0, t, torch.randn(x_0.shape, generator=g))
        alpha = model.schedule.alpha_sigma(t)[0].to(x_t.dtype).view(-1, *[1] * (x_t.ndim - 1))
        denoised = model(x_t.to(module.device), t, cond).x_0.float().cpu()
        parts.append(Denoised(x_0, x_t / alpha, denoised))
    return Denoised(*(torch.cat(part) for part in zip(*parts, strict=True)))


class DenoisingTest(pl.Callback):
    """Denoise the test data at the end, at the times of validation, in one evaluation each.

    Writes original, noisy and denoised side by side to `<run>/denoising.png`, and the errors beside those of the noisy
    input, x_t / alpha, to the loggers and run.json.

    Args:
        run: the run folder.
        n: test samples; None for all.
    """

    def __init__(self, run: str, n: PositiveInt | None = None):
        self.run, self.n = Path(run), n
        self.results: dict[str, float] = {}
        self.report: list[tuple[str, str]] = []

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        if not trainer.is_global_zero:
            return
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        n = min(self.n or len(data.test_set), len(data.test_set))
        original, noisy, denoised = denoise(pl_module, data.test_set, n)
        quality = image_quality(data.to_units(denoised), data.to_units(original), images=data.kind == "images")
        # Not clipped, as the input of the model is not.
        noisy_units, original_units = (data.to_units(x, clip=False) for x in (noisy, original))
        before = image_quality(noisy_units, original_units, clip=False, images=data.kind == "images")
        self.results = {f"test/{k}": v for k, v in quality.items()} | {f"test/{k}_noisy": v for k, v in before.items()}
        pl_module.log_metrics(self.results)
        self.report = [("test", summary(n, quality, before))]
        with tolerating("the picture of denoised test data"):
            self.draw(data, original, noisy, denoised)

    def draw(self, data: DataModule, original: Tensor, noisy: Tensor, denoised: Tensor) -> None:
        from src.plots.task_results import panels, task_results

        shown = {"original": original, "noisy": noisy, "denoised": denoised}
        shown = {name: data.to_units(x) for name, x in shown.items()}
        many = len(data.size) >= 2
        picture = task_results(shown, data.kind) if many else panels({name: x[0] for name, x in shown.items()})
        picture.save(self.run / "denoising.png")


def summary(n: int, quality: dict[str, float], before: dict[str, float]) -> str:
    """Format the errors of n denoised samples, and those of the noisy ones, in one line."""
    ratio = before["mse"] / quality["mse"]
    text = f"MSE {quality['mse']:.3g} on {n:,} samples, {ratio:.3g} times below {before['mse']:.3g} of the noisy"
    if "psnr" in quality:
        text += f"; PSNR {quality['psnr']:.2f} dB, of the noisy {before['psnr']:.2f}"
    return text

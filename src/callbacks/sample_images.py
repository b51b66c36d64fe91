"""Pictures during training: samples, denoised data, the schedule and loss curves."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytorch_lightning as pl
import torch
from annotated_types import Interval
from PIL import Image
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from src.data.base import DataModule
from src.diffusion.conditions import Condition, Labels, rows_of
from src.diffusion.guidance import Guidance, NoGuidance
from src.module import DiffusionModule
from src.samplers.base import Sampler
from src.samplers.pipeline import Pipeline
from src.utils.console import tolerating
from src.utils.ranges import NonNegativeInt, PositiveInt
from src.utils.seeding import generator

PAUSE = 20.0  # minimum seconds between two plots of the loss curves; short runs validate more often
PATIENCE = 50  # the pause is also this many times as long as the last plot took: 2 % of the time at most
POINTS, POINTS_IN_STRIP = 1000, 500  # maximum number of points shown, since more take time


class SampleImages(pl.Callback):
    """Draw sample grids of raw and averaged weights from the same noise, denoised data, the schedule and loss curves.

    The pictures are written to `<run>/samples/` and `<run>/` as PNG, and to TensorBoard or Weights & Biases. With
    labels, each row of a sample grid is a class; other conditions stand above or beside each sample.

    Args:
        run: the run folder.
        sampler: makes the sampler from the schedule.
        guidance: wraps the denoiser when sampling.
        n: samples in a grid; by default 64 images, 16 signals or volumes, or 1000 points; 0 for no grids.
        every_n_steps: optimizer steps between two grids; drawn at the next validation, and at the end.
        times: times in (0, 1] at which validation data are noised and denoised.
    """

    def __init__(
        self,
        run: str,
        sampler: Callable[..., Sampler],
        guidance: Guidance | None = None,
        n: NonNegativeInt | None = None,
        every_n_steps: PositiveInt = 1000,
        times: tuple[Annotated[float, Interval(gt=0, le=1)], ...] = (0.2, 0.4, 0.6, 0.8, 0.95),
    ):
        self.run = Path(run)
        self.make_sampler, self.guidance = sampler, guidance or NoGuidance()
        self.n, self.every_n_steps, self.times = n, every_n_steps, times
        self.drawn_step = 0
        self.first = True
        self.curves_drawn, self.pause = -PAUSE, PAUSE
        self.due = False

    def state_dict(self) -> dict[str, Any]:
        return {"drawn_step": self.drawn_step, "first": self.first}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.drawn_step, self.first = state_dict["drawn_step"], state_dict.get("first", False)
        if not self.first:  # a resumed run does not draw again what it drew at its last validation
            self.curves_drawn = time.monotonic()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Decided before the checkpoint of this validation is written, which comes before the pictures.
        step = trainer.global_step
        self.due = not trainer.sanity_checking and step - self.drawn_step >= self.every_n_steps
        if self.due:
            self.drawn_step = step

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        step = trainer.global_step
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        n = min(8 if data.size else POINTS_IN_STRIP, len(data.val_set))
        x_0 = data.val_set[0, torch.arange(n)]["x"].to(pl_module.device)
        if self.first:
            self.first = False
            with tolerating("the picture of the schedule"):
                self.draw_schedule(trainer, pl_module, data, x_0)
        ends = trainer.should_stop or step == pl_module.total_steps()
        if ends or time.monotonic() - self.curves_drawn > self.pause:
            began = time.monotonic()
            with tolerating("the picture of the loss curves"):
                self.draw_curves(trainer)
            self.curves_drawn = time.monotonic()
            self.pause = max(PAUSE, PATIENCE * (self.curves_drawn - began))
        if pl_module.is_sharded or not (ends or self.due):
            return  # one process alone cannot draw with its part of the weights
        self.drawn_step = step
        with trainer.precision_plugin.forward_context():
            if self.n != 0:
                with tolerating("a grid of samples"):
                    self.draw_samples(trainer, pl_module, data)
            with tolerating("the picture of denoised data"):
                self.draw_denoising(trainer, pl_module, data, x_0)

    def draw_samples(self, trainer: pl.Trainer, module: DiffusionModule, data: DataModule) -> None:
        from src.plots.conditions import MAX_TILES, conditioned_grid, words_and_image
        from src.plots.pictures import MAX_SHOWN, sample_grid

        n = min(MAX_SHOWN[1 + len(data.shape)], POINTS) if self.n is None else self.n
        label, columns, names = grid_labels(module.denoiser.condition, data, n), None, None
        if label is not None:
            n, columns, names = len(label), int((label == 0).sum()), getattr(data, "class_names", [])[: label.max() + 1]
        all_names = {"label": getattr(data, "class_names", []), "vector": data.vector_names}
        for name, model in module.models.items():
            sampler = self.make_sampler(schedule=model.schedule)
            pipeline = Pipeline(model, sampler, data.shape, self.guidance, label)
            cond = pipeline.conditions(range(n))
            words, image = words_and_image(model.condition, cond, data.units, all_names)
            if data.size and (words or image is not None):
                shown = range(min(n, MAX_TILES[1 + len(data.shape)]))
                x = pipeline.sample(shown, rows_of(cond, slice(len(shown))))
                picture = conditioned_grid(data.to_units(x), words, image, data.kind)
            else:
                picture = sample_grid(data.to_units(pipeline.sample(n, cond)), columns, label, names, data.kind)
            self.show(trainer, picture, f"samples/{name}", f"step_{{step:06d}}_{name}")

    def draw_denoising(self, trainer: pl.Trainer, module: DiffusionModule, data: DataModule, x_0: torch.Tensor) -> None:
        from src.plots.denoising_strip import denoising_strip

        noise = torch.randn(x_0.shape, generator=generator("strip")).to(x_0)  # a seed
        model = module.models["ema"]
        times = torch.tensor(self.times, dtype=torch.float64)
        noisy = [model.schedule.add_noise(x_0, t, noise) for t in times]
        with torch.no_grad():
            denoised = [model(x_t, t).x_0 for x_t, t in zip(noisy, times, strict=True)]
        strip = denoising_strip(
            data.to_units(x_0),
            [data.to_units(x) for x in noisy],
            [data.to_units(x) for x in denoised],
            [f"t = {t:g}" for t in self.times],
            data.kind,
        )
        self.show(trainer, strip, "denoised", "step_{step:06d}_denoised")

    def draw_schedule(self, trainer: pl.Trainer, module: DiffusionModule, data: DataModule, x_0: torch.Tensor) -> None:
        from src.plots.schedule import schedule_picture

        shown = x_0[:1] if x_0.ndim > 2 else x_0  # of points, the whole cloud
        noise = torch.randn(shown.shape, generator=generator("schedule")).to(x_0)  # a seed
        picture = schedule_picture(module.denoiser.schedule, shown, noise, kind=data.kind, units=data.units)
        self.show(trainer, picture, "schedule", "../schedule")

    def draw_curves(self, trainer: pl.Trainer) -> None:
        from src.loggers.metrics_csv import read_metrics
        from src.plots.loss_curves import loss_curves

        for logger in trainer.loggers:
            logger.save()
        metrics = self.run / "metrics.csv"
        if metrics.exists():
            self.show(trainer, loss_curves(read_metrics(metrics)), "loss_curves", "../loss_curves")

    def show(self, trainer: pl.Trainer, picture: Image.Image, tag: str, name: str) -> None:
        """Save a picture in the run folder, and pass it to the loggers that show pictures."""
        path = self.run / "samples" / (name.format(step=trainer.global_step) + ".png")
        (self.run / "samples").mkdir(exist_ok=True)
        picture.save(path)
        for logger in trainer.loggers:
            with tolerating(f"a picture in {type(logger).__name__}"):
                log_image(logger, tag, picture, trainer.global_step)


def grid_labels(condition: Condition, data: DataModule, n: int) -> torch.Tensor | None:
    """The labels of a grid of about n samples with a row for each class; None unless the condition is the label."""
    if not isinstance(condition, Labels):
        return None
    rows = min(data.num_classes, 10) if data.size else data.num_classes
    return torch.arange(rows).repeat_interleave(max(1, n // rows))


def log_image(logger: Logger, tag: str, picture: Image.Image, step: int) -> None:
    """Pass a picture to TensorBoard, Weights & Biases or MLflow."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(tag, np.asarray(picture), step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(tag, [picture], step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_image(logger.run_id, picture, f"{tag}/step_{step}.png")

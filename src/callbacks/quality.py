"""How good the samples of a run are while it trains."""

from collections.abc import Callable
from typing import Annotated

import pytorch_lightning as pl
import torch
from annotated_types import Ge
from torch import Tensor
from torchmetrics import Metric

from src.data.base import DataModule
from src.diffusion.guidance import Guidance, NoGuidance
from src.metrics.features.base import Features, ReferenceData
from src.metrics.sliced_wasserstein import seeded_directions
from src.module import DiffusionModule
from src.samplers.base import Sampler
from src.samplers.pipeline import Pipeline
from src.statistics.frechet import frechet_metric
from src.statistics.sliced_wasserstein import SlicedWassersteinDistance
from src.utils.errors import UserError
from src.utils.ranges import PositiveInt
from src.utils.seeding import generator


class Quality(pl.Callback):
    """Distance between a few samples of the averaged weights and the test data, from the same noise each time.

    Of images the Fréchet distance in features of the data, logged as `quality/frechet_distance`; of signals and points
    the sliced Wasserstein distance, `quality/sliced_wasserstein`. Beside it stands `quality/real_baseline`, that of as
    many training data, and among the results of the run `quality/nfe`, the network evaluations per sample. With
    so few samples the distance is large even of a perfect model: it tells runs and moments apart, and is no result.
    Processes share the samples out.

    Args:
        sampler: made of (schedule).
        features: made of the data, as for src.evaluate.
        guidance: wraps the denoiser.
        n: samples.
        steps: of the sampler.
        every_n_steps: optimizer steps between two, at the next validation, and at the end.
    """

    def __init__(
        self,
        sampler: Callable[..., Sampler],
        features: Callable[[ReferenceData], Features],
        guidance: Guidance | None = None,
        n: Annotated[int, Ge(2)] = 500,
        steps: PositiveInt = 10,
        every_n_steps: PositiveInt = 500,
    ):
        if n < 2 or steps < 1 or every_n_steps < 1:
            raise ValueError(
                f"n is at least 2, steps and every_n_steps at least 1, not {n}, {steps} and {every_n_steps}"
            )
        self.make_sampler, self.make_features = sampler, features
        self.guidance, self.n, self.steps, self.every_n_steps = guidance or NoGuidance(), n, steps, every_n_steps
        self.measured_step = 0
        self.real_baseline: float | None = None
        self.results: dict[str, float] = {}

    def state_dict(self) -> dict[str, int]:
        return {"measured_step": self.measured_step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.measured_step = state_dict["measured_step"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepare the features, which may have to be learned, once: the first process does, the others read them."""
        assert isinstance(pl_module, DiffusionModule)
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        self.reference = ReferenceData(data, self.make_features)
        self.name = "quality/frechet_distance" if self.reference.kind == "images" else "quality/sliced_wasserstein"
        if self.reference.kind == "images":
            width = self.reference.width
            if self.n <= width:
                raise UserError(f"callbacks.quality.n={self.n} is too few for {width} features; use {10 * width}")
            if trainer.is_global_zero:
                self.reference.features  # noqa: B018 - made when it is asked for
            trainer.strategy.barrier("features")

    def pipeline(self, module: DiffusionModule, data: DataModule) -> Pipeline:
        """The averaged weights with the sampler and guidance of this callback."""
        denoiser = module.models["ema"]
        sampler = self.make_sampler(schedule=denoiser.schedule, steps=self.steps)
        return Pipeline(denoiser, sampler, data.shape, self.guidance)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        step = trainer.global_step
        ends = trainer.should_stop or step == pl_module.total_steps()
        if trainer.sanity_checking or not (ends or step - self.measured_step >= self.every_n_steps):
            return
        self.measured_step = step
        rank, world_size = trainer.global_rank, trainer.world_size
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        pipeline = self.pipeline(pl_module, data)
        with trainer.precision_plugin.forward_context(), pipeline.count_nfe() as cost:
            x = data.to_units(pipeline.sample(range(rank, self.n, world_size))).float()
        if self.real_baseline is None:
            order = torch.randperm(len(self.reference.train), generator=generator("floor"))[: self.n]
            self.real_baseline = self.distance(self.reference.train[order[rank::world_size]]["x"], trainer)
        measured = {self.name: self.distance(x, trainer), "quality/real_baseline": self.real_baseline}
        pl_module.log_metrics(measured)
        self.results = measured | {"quality/nfe": cost.evaluations / len(x)}

    def distance(self, x: Tensor, trainer: pl.Trainer) -> float:
        """From the samples x (B, C, *S) of this process, and those of all others, to the test data."""
        rank, world_size, reference = trainer.global_rank, trainer.world_size, self.reference
        images = reference.kind == "images"
        metric: Metric
        if images:
            metric = frechet_metric(reference.features.width)
        else:
            metric = SlicedWassersteinDistance(seeded_directions(x[0].numel()))
        if world_size > 1:  # where they can be gathered
            metric = metric.to(trainer.strategy.root_device)
        real = reference.features.test if images else torch.cat([part["x"] for part in reference.test.batches()])
        fake = reference.features(x) if images else x
        metric.update(real[rank::world_size].to(metric.device), real=True)
        metric.update(fake.to(metric.device), real=False)
        return float(metric.compute())

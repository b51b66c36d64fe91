"""A metric of a few samples, logged during training."""

from collections.abc import Callable
from typing import Annotated, Protocol

import pytorch_lightning as pl
import torch
from annotated_types import Ge
from torch import Tensor

from src.data.base import DataModule
from src.diffusion.guidance import Guidance, NoGuidance
from src.module import DiffusionModule
from src.samplers.base import Sampler
from src.samplers.pipeline import Pipeline
from src.utils.console import tolerating
from src.utils.errors import UserError
from src.utils.ranges import PositiveInt


class TrainingMetric(Protocol):
    """A metric that `Quality` can log, such as those in `src.metrics.sample_distance`.

    Attributes:
        min_samples: the minimum number of samples.
    """

    @property
    def min_samples(self) -> int: ...

    def prepare(self) -> None:
        """Do slow preparations; called before training, on rank 0 only."""

    def real_samples(self, n: int) -> Tensor:
        """The real data (n, C, *S) for the baseline."""

    def __call__(self, x: Tensor) -> dict[str, float]:
        """Compute the values by name, the main one first, for samples x (N, C, *S) in the units of the data."""


class Quality(pl.Callback):
    """Log a metric of a few samples of the averaged weights, from the same noise each time.

    The values are logged as `quality/NAME`; by default the distance to the test data, of images
    `quality/frechet_distance`, of signals and points `quality/sliced_wasserstein`. `quality/real_baseline` is the first
    value of as many training data; among the results of the run, `quality/nfe` is the number of network evaluations per
    sample. With so few samples the distance is biased upwards, even for a perfect model: use it to rank runs, not as
    a final result. The processes share the sampling; rank 0 computes the metric.

    Args:
        sampler: makes the sampler from (schedule, steps).
        metric: makes the metric from the data module.
        guidance: wraps the denoiser.
        n: number of samples.
        steps: steps of the sampler.
        every_n_steps: optimizer steps between two measurements, at the next validation and at the end.
    """

    def __init__(
        self,
        sampler: Callable[..., Sampler],
        metric: Callable[[DataModule], TrainingMetric],
        guidance: Guidance | None = None,
        n: Annotated[int, Ge(2)] = 500,
        steps: PositiveInt = 10,
        every_n_steps: PositiveInt = 500,
    ):
        for name, value, least in (("n", n, 2), ("steps", steps, 1), ("every_n_steps", every_n_steps, 1)):
            if value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}")
        self.make_sampler, self.make_metric, self.guidance = sampler, metric, guidance or NoGuidance()
        self.n, self.steps, self.every_n_steps = n, steps, every_n_steps
        self.measured_step = 0
        self.real_baseline: float | None = None
        self.results: dict[str, float] = {}

    def state_dict(self) -> dict[str, int]:
        return {"measured_step": self.measured_step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.measured_step = state_dict["measured_step"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make and prepare the metric."""
        self.metric = self.make_metric(trainer.datamodule)  # type: ignore[attr-defined]
        least = self.metric.min_samples
        if self.n < least:
            raise UserError(f"callbacks.quality.n must be >= {least} for this metric, got {self.n}; use {10 * least}")
        if trainer.is_global_zero:
            self.metric.prepare()
        trainer.strategy.barrier("metric")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        step = trainer.global_step
        ends = trainer.should_stop or step == pl_module.total_steps()
        if trainer.sanity_checking or not (ends or step - self.measured_step >= self.every_n_steps):
            return
        self.measured_step = step
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        pipeline = self.pipeline(pl_module, data)
        mine = range(trainer.global_rank, self.n, trainer.world_size)
        with trainer.precision_plugin.forward_context(), pipeline.count_nfe() as cost:
            x = data.to_units(pipeline.sample(mine)).float()
        x = self.gathered(x, trainer)
        if not trainer.is_global_zero:
            return
        with tolerating("callbacks.quality, a measurement of samples,"):
            values = self.metric(x)
            if self.real_baseline is None:
                self.real_baseline = next(iter(self.metric(self.metric.real_samples(self.n)).values()))
            measured = {f"quality/{name}": value for name, value in values.items()}
            measured["quality/real_baseline"] = self.real_baseline
            pl_module.log_metrics(measured)
            self.results = measured | {"quality/nfe": cost.evaluations / len(mine)}

    def pipeline(self, module: DiffusionModule, data: DataModule) -> Pipeline:
        """The averaged weights with the sampler and guidance of this callback."""
        denoiser = module.models["ema"]
        sampler = self.make_sampler(schedule=denoiser.schedule, steps=self.steps)
        return Pipeline(denoiser, sampler, data.shape, self.guidance)

    def gathered(self, x: Tensor, trainer: pl.Trainer) -> Tensor:
        """The samples (n, C, *S) of all processes in their order, on the CPU; x has every world_size-th."""
        if trainer.world_size == 1:
            return x
        most = -(-self.n // trainer.world_size)
        padded = torch.cat([x, x.new_zeros(most - len(x), *x.shape[1:])]).to(trainer.strategy.root_device)
        parts = trainer.strategy.all_gather(padded)
        return parts.transpose(0, 1).flatten(0, 1)[: self.n].cpu()

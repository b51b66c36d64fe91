"""Cost estimate of a run from the costs of a step, its length and the speed of the device."""

from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from src.callbacks.sample_images import POINTS, SampleImages, grid_labels
from src.commands.plan.device import Plan, Speed
from src.commands.plan.profile import Costs
from src.data.base import DataModule
from src.data.samples import val_count
from src.diffusion.conditions import Cond
from src.module import DiffusionModule
from src.plots.pictures import MAX_SHOWN
from src.samplers.pipeline import Pipeline
from src.utils.errors import UserError
from src.utils.loop_counters import total_steps

MODELS = 2  # validated and sampled: raw and averaged weights
SPARE = 0.9  # usable fraction of the memory of a device; the rest is for kernels and fragmentation


@dataclass(frozen=True)
class Layout:
    """Distribution of a run over devices.

    Attributes:
        devices: total number.
        batch: images per device.
        sharded: True for sharded weights, gradients and optimizer state (FSDP), False for replicas (DDP).
    """

    devices: int
    batch: int
    sharded: bool


@dataclass(frozen=True)
class RunLength:
    """Length of a run.

    Attributes:
        steps: optimizer steps.
        batches: global batches per step.
        images: training images, with repetitions.
        epochs: None if the number of images is unknown.
        validated: validation images over the whole run, with repetitions; None if unknown.
    """

    steps: int
    batches: int
    images: int
    epochs: float | None
    validated: float | None


@dataclass(frozen=True)
class Grid:
    """Sample grids: their number in the run, images per grid, and network evaluations per image."""

    number: int
    images: int
    evaluations: float


@dataclass(frozen=True)
class Memory:
    """Bytes on each device.

    Attributes:
        parts: bytes by name; activations are those of one batch.
        total: peak.
        most: largest batch size that fits; None if the memory is unknown.
    """

    parts: dict[str, float]
    total: float
    most: int | None


@dataclass(frozen=True)
class Time:
    """Times in seconds: compute and communication of one step, all training, all validation, one grid, the whole run.

    `starting` is True if the compute is bound by the number of operations instead of their size.
    """

    starting: bool
    compute: float
    communication: float
    training: float
    validation: float
    grid: float
    run: float


def length_of(cfg: DictConfig, plan: Plan, data: DataModule) -> RunLength:
    """Length of the run.

    Raises:
        UserError: if it is unknown.
    """
    trainer, n = cfg.trainer, plan.images or cfg.data.get("n")
    n_val = cfg.data.get("val_size") or (n and val_count(n, cfg.data.get("val_fraction", 0.05)))
    batches = (n - n_val) // data.batch_size if n else 0
    if not n and trainer.max_epochs > 0:
        raise UserError("trainer.max_epochs counts passes over the images; set their number: plan.images=1000000")
    steps = total_steps(trainer, batches)
    if steps < 1:
        raise UserError(
            "cannot plan a run that is limited only by trainer.max_time; set trainer.max_steps or trainer.max_epochs"
        )
    images = steps * trainer.accumulate_grad_batches * data.batch_size
    validated = None
    if n_val:
        limit, interval = trainer.limit_val_batches, trainer.val_check_interval
        each = min(n_val, limit * data.batch_size) if isinstance(limit, int) else limit * n_val
        interval = interval if isinstance(interval, int) else max(1, interval * batches)
        validated = each * max(1, steps * trainer.accumulate_grad_batches // interval)
    return RunLength(steps, trainer.accumulate_grad_batches, images, images / (n - n_val) if n else None, validated)


def memory_of(costs: Costs, plan: Plan, layout: Layout) -> Memory:
    """Memory per device.

    FSDP shards weights, gradients and optimizer state; the layers gathered temporarily are neglected. DDP keeps a
    second copy of the gradients in its communication buckets.
    """
    share = layout.devices if layout.sharded else 1
    parts = {
        "weights": costs.weights / share,
        "gradients": costs.gradients / share,
        "optimizer state": costs.optimizer / share,
        "averaged weights": costs.averages / share,
        "batch": float(costs.batch),
        "activations": float(costs.activations),
    }
    if layout.devices > 1 and not layout.sharded:
        parts["gradients in buckets"] = float(costs.gradients)
    step = float(costs.peak)  # includes activations and gradients
    if layout.sharded:
        step = max(costs.activations, costs.peak - costs.gradients) + parts["gradients"]
    total = step + sum(bytes for name, bytes in parts.items() if name not in ("activations", "gradients"))
    most = None
    if plan.memory:
        more = (SPARE * plan.memory - total) // (costs.image + costs.batch / layout.batch)
        most = max(0, layout.batch + int(more))
    return Memory(parts, total, most)


def time_of(costs: Costs, plan: Plan, layout: Layout, length: RunLength, grid: Grid | None, speed: Speed) -> Time:
    """Time of the run, without overlap of communication and compute.

    In a ring of d devices each sends the fraction (d - 1) / d of the gradients twice (DDP), or of the weights twice,
    forward and backward, and of the gradients once (FSDP).
    """
    flop = layout.batch * costs.training
    compute = length.batches * speed.seconds(flop, costs.operations)
    starting = speed.seconds(flop, 0) < speed.seconds(0, costs.operations)
    bandwidth, sent = plan.bandwidth(layout.devices), 2.0 * costs.gradients
    if layout.sharded:
        sent += 2.0 * costs.weights - costs.gradients
    communication = sent * (1 - 1 / layout.devices) / bandwidth if bandwidth else 0.0
    training = length.steps * (compute + communication)
    batch = speed.seconds(layout.batch * costs.validation, costs.operations_validation)
    validation = MODELS * (length.validated or 0) / (layout.batch * layout.devices) * batch
    one_grid = 0.0
    if grid:
        one_grid = MODELS * grid.evaluations * speed.seconds(grid.images * costs.forward, costs.operations_forward)
    run = training + validation + (grid.number * one_grid if grid else 0)
    return Time(starting, compute, communication, training, validation, one_grid, run)


class ZeroNet(nn.Module):
    """A network whose output is zero, to count evaluations."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels, self.weight = channels, nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond | None = None) -> Tensor:
        return x.new_zeros(len(x), self.channels, *x.shape[2:])


def grid_of(sample_images: SampleImages | None, module: DiffusionModule, data: DataModule, steps: int) -> Grid | None:
    """The sample grids of the run; replaces the network of the module."""
    if sample_images is None or sample_images.n == 0:
        return None
    denoiser = module.denoiser
    n = min(MAX_SHOWN[1 + len(data.shape)], POINTS) if sample_images.n is None else sample_images.n
    if (label := grid_labels(denoiser.condition, data, n)) is not None:
        n = len(label)
    denoiser.net = ZeroNet(data.channels * denoiser.variance.outputs)
    sampler: Any = sample_images.make_sampler(schedule=denoiser.schedule)
    pipeline = Pipeline(denoiser, sampler, (data.channels, *[1] * len(data.size)), sample_images.guidance)
    with pipeline.count_nfe() as cost:
        pipeline.sample(1)
    return Grid(-(-steps // sample_images.every_n_steps), n, cost.evaluations)


@dataclass(frozen=True)
class CostEstimate:
    """The whole estimate, in FLOP, bytes and seconds; `checkpoint` is the size of one checkpoint."""

    plan: Plan
    layout: Layout
    length: RunLength
    costs: Costs
    memory: Memory
    speed: Speed
    time: Time
    grid: Grid | None
    checkpoint: int

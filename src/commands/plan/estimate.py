"""The estimate of a plan: what follows from the costs of a step, the length of the run and the speed of the device."""

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
from src.module import DiffusionModule
from src.plots.pictures import MAX_SHOWN
from src.samplers.pipeline import Pipeline
from src.utils.errors import UserError
from src.utils.loop_counters import total_steps

MODELS = 2  # that are validated and sampled from: with raw and with averaged weights
SPARE = 0.9  # share of a device's memory that a run can have: the rest goes to its own code, and to gaps


@dataclass(frozen=True)
class Layout:
    """How a run is spread.

    Attributes:
        devices: in all.
        batch: images on each.
        sharded: whether they share out what has the size of the weights (FSDP), or each has it (DDP).
    """

    devices: int
    batch: int
    sharded: bool


@dataclass(frozen=True)
class RunLength:
    """How long a run is.

    Attributes:
        steps: of the optimizer.
        batches: global ones in a step.
        images: that are trained on, again and again counted.
        epochs: None where nobody says how many images there are.
        validated: images that are evaluated in validation, over the whole run; None where that is not known.
    """

    steps: int
    batches: int
    images: int
    epochs: float | None
    validated: float | None


@dataclass(frozen=True)
class Grid:
    """The sample grids: how many in the run, and images and evaluations of the net for each in one."""

    number: int
    images: int
    evaluations: float


@dataclass(frozen=True)
class Memory:
    """Bytes on each device.

    Attributes:
        parts: by name; activations are those of one batch.
        total: the most alive at once.
        most: images that fit beside the rest in the memory of the device; None where that is not known.
    """

    parts: dict[str, float]
    total: float
    most: int | None


@dataclass(frozen=True)
class Time:
    """Seconds: computing and communicating in one step, all training, all validation, one grid, all of the run.

    `starting` is whether the computing is bound by the number of operations, and not by their size.
    """

    starting: bool
    compute: float
    communication: float
    training: float
    validation: float
    grid: float
    run: float


def length_of(cfg: DictConfig, plan: Plan, data: DataModule) -> RunLength:
    """How long the run is.

    Raises:
        UserError: where it cannot be known.
    """
    trainer, n = cfg.trainer, plan.images or cfg.data.get("n")
    n_val = cfg.data.get("val_size") or (n and val_count(n, cfg.data.get("val_fraction", 0.05)))
    batches = (n - n_val) // data.batch_size if n else 0
    if not n and trainer.max_epochs > 0:
        raise UserError("trainer.max_epochs counts passes over the images; say how many there are: plan.images=1000000")
    steps = total_steps(trainer, batches)
    if steps < 1:
        raise UserError("a run that only time ends cannot be planned; give trainer.max_steps or trainer.max_epochs")
    images = steps * trainer.accumulate_grad_batches * data.batch_size
    validated = None
    if n_val:
        limit, interval = trainer.limit_val_batches, trainer.val_check_interval
        each = min(n_val, limit * data.batch_size) if isinstance(limit, int) else limit * n_val
        interval = interval if isinstance(interval, int) else max(1, interval * batches)
        validated = each * max(1, steps * trainer.accumulate_grad_batches // interval)
    return RunLength(steps, trainer.accumulate_grad_batches, images, images / (n - n_val) if n else None, validated)


def memory_of(costs: Costs, plan: Plan, layout: Layout) -> Memory:
    """What each device holds.

    FSDP shares out what has the size of the weights; the parts of the net that are gathered for a moment are left out.
    DDP keeps the gradients again, in buckets to send.
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
    step = float(costs.peak)  # which has activations and gradients
    if layout.sharded:
        step = max(costs.activations, costs.peak - costs.gradients) + parts["gradients"]
    total = step + sum(bytes for name, bytes in parts.items() if name not in ("activations", "gradients"))
    most = None
    if plan.memory:
        more = (SPARE * plan.memory - total) // (costs.image + costs.batch / layout.batch)
        most = max(0, layout.batch + int(more))
    return Memory(parts, total, most)


def time_of(costs: Costs, plan: Plan, layout: Layout, length: RunLength, grid: Grid | None, speed: Speed) -> Time:
    """How long it takes, with communication as if nothing were computed meanwhile.

    In a ring of d devices each sends (d - 1) / d of what is gathered or scattered: of the gradients twice (DDP), of the
    weights forward and backward and of the gradients once (FSDP).
    """
    flop = layout.batch * costs.training
    compute = length.batches * speed.seconds(flop, costs.operations)
    starting = speed.seconds(flop, 0) < speed.seconds(0, costs.operations)
    bandwidth, sent = plan.bandwidth(layout.devices), 2.0 * costs.gradients
    if layout.sharded:
        sent += 2.0 * costs.weights - costs.gradients
    communication = sent * (1 - 1 / layout.devices) / bandwidth if bandwidth else 0.0
    training = length.steps * (compute + communication)
    batch = speed.seconds(layout.batch * costs.forward, costs.operations_forward)
    validation = MODELS * (length.validated or 0) / (layout.batch * layout.devices) * batch
    one_grid = 0.0
    if grid:
        one_grid = MODELS * grid.evaluations * speed.seconds(grid.images * costs.forward, costs.operations_forward)
    run = training + validation + (grid.number * one_grid if grid else 0)
    return Time(starting, compute, communication, training, validation, one_grid, run)


class ZeroNet(nn.Module):
    """A net that says zero, for counting how often it is asked."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels, self.weight = channels, nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None = None) -> Tensor:
        return x.new_zeros(len(x), self.channels, *x.shape[2:])


def grid_of(sample_images: SampleImages | None, module: DiffusionModule, data: DataModule, steps: int) -> Grid | None:
    """The sample grids of the run; the module is spoilt, its net replaced."""
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
    """All that a plan says, in FLOP, bytes and seconds; `checkpoint` is the size of one."""

    plan: Plan
    layout: Layout
    length: RunLength
    costs: Costs
    memory: Memory
    speed: Speed
    time: Time
    grid: Grid | None
    checkpoint: int

"""Devices to plan for: by their data sheets, or the local one by a benchmark."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from annotated_types import Interval
from omegaconf import DictConfig

from src.commands.plan.profile import Costs, dtypes
from src.utils.errors import UserError
from src.utils.hardware import default_precision, physical_memory
from src.utils.ranges import NonNegativeFloat, PositiveFloat, PositiveInt

SECONDS, LONGEST = 0.5, 2.0  # intended and largest duration of one of the few benchmark steps


@dataclass(frozen=True)
class Speed:
    """Speed of a device.

    Attributes:
        flops: FLOP/s.
        launch_overhead: minimum seconds per operation.
        source: where these numbers come from.
    """

    flops: float
    launch_overhead: float
    source: str

    def seconds(self, flop: float, operations: int) -> float:
        """Time in seconds of this many FLOP in this many operations."""
        return max(flop / self.flops, operations * self.launch_overhead)


@dataclass(frozen=True)
class Plan:
    """Device and run for which the cost is estimated.

    Args:
        name: name of the device; None for the local one.
        memory: bytes per device.
        bf16, fp16, fp32: peak FLOP/s without sparsity; None if not supported.
        link_bandwidth: bytes/s that a device sends to others of its node.
        network_bandwidth: bytes/s that a node sends to others.
        devices_per_node: number of devices in a node.
        mfu: model FLOP utilization, the assumed fraction of the peak speed.
        launch_overhead: seconds of CPU time per kernel launch.
        devices: number of devices; None for that of the trainer.
        images: number of training and validation images, if the config does not say.
        out: JSON file for the estimate.
    """

    name: str | None = None
    memory: PositiveFloat | None = None
    bf16: PositiveFloat | None = None
    fp16: PositiveFloat | None = None
    fp32: PositiveFloat | None = None
    link_bandwidth: PositiveFloat | None = None
    network_bandwidth: PositiveFloat | None = None
    devices_per_node: PositiveInt = 8
    mfu: Annotated[float, Interval(gt=0, le=1)] = 0.3
    launch_overhead: NonNegativeFloat = 0.0
    devices: PositiveInt | None = None
    images: PositiveInt | None = None
    out: str | None = None

    @property
    def measured(self) -> bool:
        """True if the plan is for the local device."""
        return self.name is None

    def precision(self, trainer: DictConfig) -> str:
        """The trainer's precision, with `auto` resolved for this device."""
        if trainer.precision != "auto":
            return str(trainer.precision)
        if self.measured:
            return default_precision(trainer.accelerator)
        return "bf16-mixed" if self.bf16 else "16-mixed" if self.fp16 else "32-true"

    def count(self, trainer: DictConfig) -> int:
        """Total number of devices.

        Raises:
            UserError: if the trainer takes all devices of another machine.
        """
        if self.devices is not None:
            return self.devices
        here = trainer.devices
        if here in (-1, "-1", "auto"):
            if not self.measured:
                raise UserError(
                    f"trainer.devices={here} means all devices of the machine; set their number: plan.devices=8"
                )
            here = max(1, torch.cuda.device_count())
        return int(here if isinstance(here, int | str) else len(here)) * trainer.num_nodes

    def speed(self, precision: str) -> Speed:
        """Assumed speed: the fraction `mfu` of the peak.

        Raises:
            UserError: for a precision that the device does not support.
        """
        dtype, autocast = dtypes(precision)
        names = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
        peak = getattr(self, names.get(autocast or dtype, ""), None)
        if not peak:
            raise UserError(f"{self.name} has no peak for trainer.precision={precision}; use 16-mixed or 32-true")
        return Speed(
            self.mfu * peak,
            self.launch_overhead,
            f"assumed: {self.mfu:.0%} (plan.mfu) of a peak of {peak / 1e12:.4g}",
        )

    def bandwidth(self, devices: int) -> float | None:
        """Bytes/s that each device sends in a ring; the rings of a node share its network."""
        if devices <= self.devices_per_node or not self.link_bandwidth or not self.network_bandwidth:
            return self.link_bandwidth
        return min(self.link_bandwidth, self.network_bandwidth)


def local_device(accelerator: str) -> torch.device:
    """The device that the trainer selects.

    Raises:
        UserError: if the machine has none of that kind.
    """
    kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    wanted = {"gpu": ("cuda", "mps"), "auto": tuple(kinds)}.get(accelerator, (accelerator,))
    for kind in wanted:
        if kinds.get(kind):
            return torch.device(kind)
    raise UserError(f"trainer.accelerator={accelerator}: this machine has none; name a device, as in plan=h100")


def with_device_info(plan: Plan, device: torch.device) -> Plan:
    """The plan with name and memory of the local device."""
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return replace(plan, name=found.name, memory=plan.memory or float(found.total_memory))
    name = f"{device.type} ({torch.get_num_threads()} threads)"
    return replace(plan, name=name, memory=plan.memory or physical_memory())


def benchmark(
    plan: Plan,
    costs: Costs,
    n: int,
    precision: str,
    device: torch.device,
    make_step: Callable[[int], Callable[[], None]],
) -> Speed:
    """Speed of the model in a few training steps, or a fraction of a matrix product if they would take too long.

    Args:
        plan: gives the memory and the assumed fraction.
        costs: of one step.
        n: largest batch size.
        precision: the trainer's precision.
        device: the device to measure.
        make_step: makes a training step of n images.
    """
    peak = matmul_flops(device, precision)
    expected = costs.training / (plan.mfu * peak)  # seconds an image
    images = min(n, max(1, int(SECONDS / expected)))
    needed = costs.weights + costs.averages + costs.optimizer + costs.peak
    fits = plan.memory is None or needed < plan.memory / 2
    if expected > LONGEST or not fits:
        why = "takes too long to be measured" if fits else "may not fit and was not measured"
        said = f"assumed: {plan.mfu:.0%} (plan.mfu) of a matrix product here; the model {why}"
        return Speed(plan.mfu * peak, 0.0, said)
    reached = images * costs.training / seconds(make_step(images), device)
    return Speed(reached, 0.0, f"measured here in steps of {images} images; {reached / peak:.0%} of a matrix product")


def matmul_flops(device: torch.device, precision: Any) -> float:
    """FLOP/s of a product of large matrices."""
    dtype, autocast = dtypes(precision)
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device).to(autocast or dtype)
    return 2 * size**3 / seconds(lambda: a @ a, device)


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Median time in seconds of three calls after a warm-up."""
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)
    times = []
    for _ in range(4):
        began = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])

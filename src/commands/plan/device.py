"""Devices that a run is planned for: those of a data sheet, and the one at hand, whose speed is measured."""

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
from src.utils.hardware import physical_memory, precision_for
from src.utils.ranges import NonNegativeFloat, PositiveFloat, PositiveInt

SECONDS, LONGEST = 0.5, 2.0  # that a step on trial shall and may take, of which there are a handful


@dataclass(frozen=True)
class Speed:
    """FLOP a second of a device, the seconds that each operation takes at least, and how that is known."""

    flops: float
    launch: float
    source: str

    def seconds(self, flop: float, operations: int) -> float:
        """The time that so much work takes, done in so many operations."""
        return max(flop / self.flops, operations * self.launch)


@dataclass(frozen=True)
class Plan:
    """Device and run for which the cost is estimated.

    Args:
        name: of the device; None for the one at hand.
        memory: bytes of one.
        bf16, fp16, fp32: FLOP a second at peak, dense; None where it cannot.
        link, network: bytes a second that one sends to another of its machine, and that a machine sends to others.
        per_machine: how many there are in a machine.
        utilisation: share of the peak that a run reaches.
        launch: seconds that an operation takes at least.
        devices: how many; None for as many as the trainer is told.
        images: there are to train and validate on, where the config does not say.
        out: file that the figures are written to, as JSON.
    """

    name: str | None = None
    memory: PositiveFloat | None = None
    bf16: PositiveFloat | None = None
    fp16: PositiveFloat | None = None
    fp32: PositiveFloat | None = None
    link: PositiveFloat | None = None
    network: PositiveFloat | None = None
    per_machine: PositiveInt = 8
    utilisation: Annotated[float, Interval(gt=0, le=1)] = 0.3
    launch: NonNegativeFloat = 0.0
    devices: PositiveInt | None = None
    images: PositiveInt | None = None
    out: str | None = None

    @property
    def measured(self) -> bool:
        """Whether it is for the device at hand."""
        return self.name is None

    def precision(self, trainer: DictConfig) -> str:
        """The trainer's, or what `auto` would become on this device."""
        if trainer.precision != "auto":
            return str(trainer.precision)
        if self.measured:
            return precision_for(trainer.accelerator)
        return "bf16-mixed" if self.bf16 else "32-true"

    def count(self, trainer: DictConfig) -> int:
        """Devices in all.

        Raises:
            UserError: where the trainer takes all that there are, of a device that is not here.
        """
        if self.devices is not None:
            return self.devices
        here = trainer.devices
        if here in (-1, "-1", "auto"):
            if not self.measured:
                raise UserError(f"trainer.devices={here} means all that there are; say how many: plan.devices=8")
            here = max(1, torch.cuda.device_count())
        return int(here if isinstance(here, int | str) else len(here)) * trainer.num_nodes

    def speed(self, precision: str) -> Speed:
        """The assumed share of the peak.

        Raises:
            UserError: for a precision that the device has no units for.
        """
        dtype, autocast = dtypes(precision)
        names = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
        peak = getattr(self, names.get(autocast or dtype, ""), None)
        if not peak:
            raise UserError(f"{self.name} has no peak for trainer.precision={precision}; use 16-mixed or 32-true")
        return Speed(
            self.utilisation * peak,
            self.launch,
            f"assumed: {self.utilisation:.0%} (plan.utilisation) of a peak of {peak / 1e12:.4g}",
        )

    def bandwidth(self, devices: int) -> float | None:
        """Bytes a second that each sends in a ring; several rings share the ways out of a machine."""
        if devices <= self.per_machine or not self.link or not self.network:
            return self.link
        return min(self.link, self.network)


def device_at_hand(accelerator: str) -> torch.device:
    """The device that the trainer takes.

    Raises:
        UserError: where there is none of the kind.
    """
    kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    wanted = {"gpu": ("cuda", "mps"), "auto": tuple(kinds)}.get(accelerator, (accelerator,))
    for kind in wanted:
        if kinds.get(kind):
            return torch.device(kind)
    raise UserError(f"trainer.accelerator={accelerator}: there is none here to plan for; name one, as in plan=h100")


def described(plan: Plan, device: torch.device) -> Plan:
    """The plan with the name and the memory of the device at hand."""
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return replace(plan, name=found.name, memory=plan.memory or float(found.total_memory))
    name = f"{device.type} ({torch.get_num_threads()} threads)"
    return replace(plan, name=name, memory=plan.memory or physical_memory())


def measured_speed(
    plan: Plan,
    costs: Costs,
    n: int,
    precision: str,
    device: torch.device,
    trial: Callable[[int], Callable[[], None]],
) -> Speed:
    """What this very model reaches in a few steps, or a share of a matrix product where they would take long.

    Args:
        plan, costs: whether the model fits, and what a step takes.
        n: the most images in a batch.
        precision, device: to measure in and on.
        trial: makes a step of so many images.
    """
    peak = product_speed(device, precision)
    expected = costs.training / (plan.utilisation * peak)  # seconds an image
    images = min(n, max(1, int(SECONDS / expected)))
    needed = costs.weights + costs.averages + costs.optimizer + costs.peak
    fits = plan.memory is None or needed < plan.memory / 2
    if expected > LONGEST or not fits:
        why = "takes too long to be tried" if fits else "may not fit, and was not tried"
        said = f"assumed: {plan.utilisation:.0%} (plan.utilisation) of a matrix product here; the model {why}"
        return Speed(plan.utilisation * peak, 0.0, said)
    reached = images * costs.training / seconds(trial(images), device)
    return Speed(reached, 0.0, f"measured here in steps of {images} images; {reached / peak:.0%} of a matrix product")


def product_speed(device: torch.device, precision: Any) -> float:
    """FLOP a second of a product of large matrices."""
    dtype, autocast = dtypes(precision)
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device).to(autocast or dtype)
    return 2 * size**3 / seconds(lambda: a @ a, device)


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """The median time of three calls after a first one."""
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)
    times = []
    for _ in range(4):
        began = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])

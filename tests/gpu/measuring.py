"""How fast training steps are, and how large they may be."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from src.commands.plan.counting import count_flops
from src.commands.plan.device import matmul_flops
from src.utils.paths import CONF
from tests.gpu.device import GB, Device
from tests.gpu.models import Diffusers, Model, Ours, parameters, power_of_two, take_step

ROUNDS = 3
ROOM = 0.17  # share of the device that a model takes, so that several can be compiled at once
OURS, THEIRS = "diffusion-lab", "diffusers"


@dataclass
class Speed:
    """What training steps took.

    Attributes:
        parameters: of the net.
        batch: images.
        first: seconds of the first step, with compilation where there is any.
        step: seconds of a step, the median over rounds.
        memory: bytes at most.
        flop: of a step, multiplications and additions of matrix products, convolutions and attention.
    """

    parameters: int
    batch: int
    first: float
    step: float
    memory: float
    flop: float

    def row(self, who: str, mode: str, peak: float) -> dict[str, Any]:
        """Of the table."""
        return {
            "library": who,
            "mode": mode,
            "parameters, M": round(self.parameters / 1e6, 2),
            "batch": self.batch,
            "images/s": self.batch / self.step,
            "ms a step": 1000 * self.step,
            "of peak, %": 100 * self.flop / self.step / peak,
            "memory, GB": self.memory / GB,
            "first step, s": self.first,
        }


def peak_flops(device: Device, precision: str) -> tuple[float, str]:
    """Peak FLOP/s of the data sheet, and where it is from; of a large matrix product for a device without one."""
    if name := device.plan():
        plan = OmegaConf.load(CONF / "plan" / f"{name}.yaml")
        if peak := plan[{"bf16-mixed": "bf16", "16-mixed": "fp16"}.get(precision, "fp32")]:
            return float(peak), f"the data sheet, conf/plan/{name}.yaml"
    return matmul_flops(device.place, precision), "a product of large matrices here"


def autocast_of(device: Device) -> tuple[torch.dtype, str]:
    """The data type that a careful user trains in, and Lightning's name of it."""
    if device.has_bf16 or device.kind == "cpu":
        return torch.bfloat16, "bf16-mixed"
    return torch.float16, "16-mixed"


def allow_fast_math() -> None:
    """What a careful user allows: TF32, and the choice of the fastest convolutions."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True


def make(who: str, model: Model, cfg: DictConfig, n: int, device: Device, tiny: bool) -> Any:
    """Ours or theirs, on the device."""
    if who.startswith(OURS):
        return Ours(cfg, n, device.place, model.channels_last)
    size = (cfg.data.channels, *cfg.data.size)
    return Diffusers(model.peer(tiny), n, size, device.place, model.channels_last)


def measure(build: Callable[[], Any], device: Device, compiles: dict[str, Any] | None, seconds: float) -> Speed:
    """Take steps for about so many seconds.

    Args:
        build: makes what takes steps.
        device: where.
        compiles: arguments of torch.compile; None for eager steps.
        seconds: of each of three rounds.
    """
    device.empty()
    dtype, _ = autocast_of(device)
    side = build()
    device.synchronize()
    if compiles is not None:
        side.net.compile(**compiles)
    first = timed(side, dtype, device, 1)
    take_step(side, dtype)  # the first backward pass after the optimizer has made its state
    trial = timed(side, dtype, device, 2)
    steps = max(2, min(500, int(seconds / trial)))
    step = statistics.median(timed(side, dtype, device, steps) for _ in range(ROUNDS))
    memory = device.peak()
    flop = 0.0 if compiles is not None else flop_of(side, dtype)
    return Speed(parameters(side), len(side.x), first, step, memory, flop)


def timed(side: Any, dtype: torch.dtype, device: Device, steps: int) -> float:
    """Seconds of a step."""
    device.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        take_step(side, dtype)
    device.synchronize()
    return (time.perf_counter() - began) / steps


def flop_of(side: Any, dtype: torch.dtype) -> float:
    """FLOP of the forward and backward pass of a step; those of an optimizer are not what a net is trained for."""
    with count_flops() as counter:
        with torch.autocast(side.x.device.type, dtype):
            loss = side.loss()
        loss.backward()
    side.optimizer.zero_grad()
    return float(counter.get_total_flops())


def batch_of(model: Model, device: Device, tiny: bool) -> int:
    """The largest power of two up to the model's batch whose step takes about ROOM of the device."""
    return 2 if tiny else power_of_two(ROOM * device.memory / model.image_bytes, model.batch)


def largest(build: Callable[[int], Any], device: Device, start: int, most: int) -> int:
    """The largest power of two, times `start`, whose training step fits on the device; at most `most`."""
    dtype, _ = autocast_of(device)
    n = start
    while 2 * n <= most and fits(build, 2 * n, dtype, device):
        n *= 2
    return n


def fits(build: Callable[[int], Any], n: int, dtype: torch.dtype, device: Device) -> bool:
    """Whether two steps of n images do."""

    def two_steps() -> None:
        side = build(n)
        for _ in range(2):
            take_step(side, dtype)
        device.synchronize()

    try:
        two_steps()
        enough = True
    except torch.OutOfMemoryError:
        enough = False
    gc.collect()
    device.empty()
    return enough

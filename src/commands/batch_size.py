"""data.batch_size=auto: the largest batch that fits the device."""

import time
from collections.abc import Callable
from typing import Any

import torch
from omegaconf import DictConfig

from src.commands.plan.fitting import estimated_batch, usable_memory
from src.commands.plan.trial import Trial
from src.data.base import DataModule
from src.runs.run import Run
from src.utils.errors import UserError
from src.utils.fsdp import FSDP2Strategy
from src.utils.hardware import is_main_process
from src.utils.processes import cluster_environment, decide_on_rank_zero

MULTIPLE = 8  # of which GPUs like sizes to be multiples
CPU_MEMORY, CPU_MOST = 0.25, 256  # share of the memory, and number of samples from which a CPU gains nothing


def find_batch_size(cfg: DictConfig, run: Run, resumes: bool, data: DataModule, trainer: Any) -> dict[str, Any]:
    """The batch size of a run with data.batch_size=auto, and how it was found; the same on every process.

    Args:
        cfg: the resolved config.
        run: the run folder, whose config holds the size of a run that resumes.
        resumes: True if it does.
        data: the data, which this loads on the first process.
        trainer: a trainer of the config, for its devices.

    Raises:
        UserError: if not even one sample fits, and for sharded weights.
    """
    if isinstance(trainer.strategy, FSDP2Strategy):
        raise UserError(
            "data.batch_size=auto tries the whole net on one device, which trainer=fsdp divides; set a number, such as "
            "the one that plan= estimates"
        )
    started_by_rank_zero = cluster_environment() is None and not is_main_process()
    if resumes or started_by_rank_zero:
        return {"batch_size": run.settings()["data"]["batch_size"]}

    def search() -> dict[str, Any]:
        data.prepare_data()
        data.setup("fit")
        return measured_batch(cfg, trainer.strategy.root_device, trainer.world_size, len(data.train_set))

    return decide_on_rank_zero(f"batch size of {run.path}", search)


def measured_batch(cfg: DictConfig, device: torch.device, processes: int, samples: int) -> dict[str, Any]:
    """The largest batch that fits, confirmed by real steps on an accelerator; facts for the record of the run.

    Args:
        cfg: the resolved config.
        device: the device of this process.
        processes: number of processes, among which the batch is divided.
        samples: number of training samples.
    """
    began, most = time.perf_counter(), max(1, samples // processes)
    guess = planned_batch(cfg, usable_memory(device), device.type != "cpu", processes, samples) // processes
    facts: dict[str, Any] = {"device": str(device), "estimated": guess * processes}
    found = guess
    if device.type != "cpu":
        trial = Trial(cfg, device, processes)
        found = largest_fitting(trial.fits, guess, most)
        facts |= {"peak": trial.peaks.get(found), "memory": trial.memory}
        trial.close()
    if not found:
        raise UserError(
            f"data.batch_size=auto: not even one sample fits in the memory of {device}; use a smaller net, or "
            "trainer=fsdp on several GPUs"
        )
    return {"batch_size": found * processes} | facts | {"seconds": round(time.perf_counter() - began, 1)}


def planned_batch(
    cfg: DictConfig, memory: float | None, on_gpu: bool, devices: int, samples: int | None, sharded: bool = False
) -> int:
    """The global batch of data.batch_size=auto by the estimate alone: what fits, at most one epoch; 0 if nothing fits.

    On a CPU it is what fits in a quarter of the memory, at most 256: larger batches are no faster there.

    Args:
        cfg: the resolved config.
        memory: bytes of each device, of a CPU those of all processes; None if unknown.
        on_gpu: False for CPUs.
        devices: number of processes.
        samples: number of training samples; None if unknown.
        sharded: True for weights that are divided among the devices.
    """
    if memory is None:
        raise UserError("data.batch_size=auto needs the memory of the device, which is unknown; set a number")
    each = memory if on_gpu else CPU_MEMORY * memory / devices
    found = estimated_batch(cfg, each, on_gpu, devices, sharded)
    if not on_gpu:
        found = min(found, CPU_MOST // devices or 1)
    if samples is not None:
        found = min(found, max(1, samples // devices))
    return rounded_down(found) * devices


def rounded_down(n: int) -> int:
    """The largest multiple of 8 up to n; n itself if it is smaller."""
    return n - n % MULTIPLE if n > MULTIPLE else n


def largest_fitting(fits: Callable[[int], bool], guess: int, most: int) -> int:
    """About the largest n <= `most` that fits, within an eighth; 0 if not even 1 does.

    Powers of two from the guess down to one that fits, or up to one that does not, then multiples of 8 in between.

    Args:
        fits: whether a size fits; if one does, smaller ones do too.
        guess: an estimate.
        most: the largest size that is of use.
    """
    low = 1 << (max(1, min(guess, most)).bit_length() - 1)
    fitted = fits(low)
    while not fitted and low > 1:
        low //= 2
        fitted = fits(low)
        if fitted:  # twice as many did not fit
            return refined(fits, low, 2 * low)
    if not fitted:
        return 0
    while 2 * low <= most:
        if not fits(2 * low):
            return refined(fits, low, 2 * low)
        low *= 2
    return refined(fits, low, most + 1)


def refined(fits: Callable[[int], bool], low: int, high: int) -> int:
    """The largest size in [low, high) that fits, in steps of an eighth of low and in multiples of 8, by bisection."""
    step = max(MULTIPLE, low // 8) if low >= MULTIPLE else 1
    sizes = range(low, high, step)
    a, b = 0, len(sizes)
    while b - a > 1:
        middle = (a + b) // 2
        a, b = (middle, b) if fits(sizes[middle]) else (a, middle)
    return sizes[a]


def announcement(facts: dict[str, Any], lr: float | None) -> str:
    """A line about the batch size that was found."""
    if "device" not in facts:
        return f"{facts['batch_size']:,}, found by data.batch_size=auto when the run began"
    how = "by the estimate of plan="
    if facts.get("peak") is not None:
        how = f"using {facts['peak'] / 1e9:.1f} of {facts['memory'] / 1e9:.1f} GB, in {facts['seconds']:.0f} s"
    rate = "" if lr is None else f"; the learning rate stays {lr:g}, though a larger batch may bear a higher one"
    return f"{facts['batch_size']:,}, found by data.batch_size=auto {how}{rate}"

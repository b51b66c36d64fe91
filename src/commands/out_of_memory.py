"""What a run or a command says where the memory did not suffice: what fits, and the command to go on with."""

import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

from omegaconf import DictConfig

from src.commands.cli import first_sentence
from src.commands.plan.fitting import what_fits
from src.commands.plan.trial import empty_cache
from src.diffusion.conditions import rows_of
from src.runs.run import Run
from src.samplers.pipeline import Pipeline
from src.utils.errors import UserError, is_out_of_memory
from src.utils.fsdp import FSDP2Strategy
from src.utils.override_syntax import assignment, command

STATES = 3  # of a trajectory, which show what a batch needs: the start and two steps
# The functions in which a run needs memory for something else than a training step.
ELSEWHERE = {
    "on_validation_end": "in the pictures and metrics after a validation",
    "validation_step": "in a validation",
}


def training_message(error: BaseException, cfg: DictConfig, run: Run, overrides: Sequence[str], trainer: Any) -> str:
    """The one line about a run that ended for lack of memory.

    Args:
        error: the error that ended it.
        cfg: its resolved config.
        run: its folder.
        overrides: the overrides that it was started with.
        trainer: its trainer.
    """
    frames = {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)}
    where = next((text for name, text in ELSEWHERE.items() if name in frames), "in a training step")
    device, processes = trainer.strategy.root_device, trainer.world_size
    most, fits = what_fits(cfg, device, processes, isinstance(trainer.strategy, FSDP2Strategy))
    if most >= cfg.data.batch_size // processes:
        fits = "by the estimate of plan= they fit, so other programs may use the device"
    parts = smaller_batches(cfg, most, processes)
    words = [assignment(key, value) for key, value in parts.items()]
    start = command("train", *overrides, *words)
    kept = "there is no checkpoint yet"
    if run.has_checkpoint:
        kept, start = "the last checkpoint is kept", command("train", assignment("resume", run.path), *words)
    advice = "Use a smaller net, or trainer=fsdp on several GPUs"
    if words:
        advice = f"Go on with the same steps in smaller batches: {start}"
    return (
        f"out of memory {where}, at step {trainer.global_step} with data.batch_size={cfg.data.batch_size}: "
        f"{first_sentence(error)} {fits[:1].upper()}{fits[1:]}{'; ' if fits else ''}{kept}. {advice}"
    )


def smaller_batches(cfg: DictConfig, most: int, processes: int) -> dict[str, Any]:
    """The settings that make the same optimizer steps in batches that fit; empty if there are none.

    Args:
        cfg: the config of the run.
        most: estimated number of samples that fit on a device; 0 if unknown.
        processes: number of devices.
    """
    batch, trainer = cfg.data.batch_size, cfg.trainer
    here = batch // processes
    limit = most if 0 < most < here else here // 2  # the estimate may not see what did not fit
    parts = next((k for k in range(2, here + 1) if here % k == 0 and here // k <= limit), None)
    if parts is None:
        return {}
    settings = {
        "data.batch_size": batch // parts,
        "trainer.accumulate_grad_batches": parts * trainer.accumulate_grad_batches,
    }
    if isinstance(trainer.val_check_interval, int):  # in batches, of which there are more now
        settings["trainer.val_check_interval"] = parts * trainer.val_check_interval
    return settings


def sampling_error(error: BaseException, pipeline: Pipeline, n: int, makes_samples: bool) -> UserError:
    """The UserError for a lack of memory while sampling, with a batch size that was tried.

    Args:
        error: what was raised; what its frames hold is freed.
        pipeline: what drew the samples.
        n: their number.
        makes_samples: True for new samples, of which a smaller batch can be tried.
    """
    said, used = first_sentence(error), min(n, pipeline.batch_size)
    traceback.clear_frames(error.__traceback__)  # which hold the tensors of the batch
    fits = largest_sampled(pipeline, used) if makes_samples else 0
    start = f"out of memory with batch_size={pipeline.batch_size} on {pipeline.device}: {said}"
    if fits:
        return UserError(f"{start} {fits} fit: use batch_size={fits}, which draws the same samples")
    if used > 1:
        return UserError(f"{start} Use a smaller batch, such as batch_size={used // 2}, or device=cpu")
    return UserError(f"{start} Not even one sample fits: use device=cpu")


@contextmanager
def metric_memory(name: str, metrics: Iterable[str]) -> Iterator[None]:
    """Make the error of a metric for which the memory does not suffice one for users."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        others = ",".join(other for other in metrics if other != name)
        raise UserError(
            f"out of memory in metrics.{name}: {first_sentence(error)} The samples are kept; use a smaller batch_size "
            f"or features.batch_size, device=cpu, or the other metrics, metrics=[{others}]"
        ) from error


def largest_sampled(pipeline: Pipeline, failed: int) -> int:
    """The largest power of two below `failed` samples that can be drawn at a time, tried in two steps; 0 if none."""
    size = 1 << max(0, failed - 1).bit_length() >> 1
    while size:
        if size < failed and can_sample(pipeline, size):
            return size
        size //= 2
    return 0


def can_sample(pipeline: Pipeline, n: int) -> bool:
    """True if a batch of n samples fits in the memory."""
    empty_cache(pipeline.device)
    given = pipeline.conditions(range(n), rows_of(pipeline.cond, slice(n)))
    smaller = replace(pipeline, batch_size=n, cond=given, on_step=None)
    try:
        with smaller.inference():
            for _ in islice(smaller.trajectory(range(n)), STATES):
                pass
    except Exception as error:
        if is_out_of_memory(error):
            return False
        raise
    return True

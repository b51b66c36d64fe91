"""How the jobs of a sweep share one machine."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

GIVEN = "DIFFUSION_LAB_GPU"  # names the GPU that a process was given


def default_n_jobs(
    threads: int,
    memory_gib: float,
    overrides: Sequence[str] = (),
    params: Mapping[str, str] | None = None,
    max_jobs: int | None = None,
) -> int:
    """How many jobs may run beside each other: as many as have cores, memory and, where there are any, a GPU each.

    Args:
        threads: cores that a job should have.
        memory_gib: memory that a job needs.
        overrides, params: of the sweep, which may have fewer jobs than that.
        max_jobs: trials that a search asks for at a time; its jobs are never more.
    """
    import joblib

    most = [joblib.cpu_count() // threads, int(available_gib() // memory_gib)]
    if gpus := visible_gpus():
        most.append(len(gpus))
    return max(1, min(*most, max_jobs or count_jobs(overrides, params or {})))


def count_jobs(overrides: Sequence[str], params: Mapping[str, str]) -> int:
    """How many jobs the overrides of a sweep stand for."""
    parsed = OverridesParser.create().parse_overrides(
        [*(f"{name}={value}" for name, value in params.items()), *overrides]
    )
    return len(BasicSweeper.split_arguments(parsed, None)[0])


def available_gib() -> float:
    """The memory that is free, or of a system that does not say all that there is."""
    try:
        rows = Path("/proc/meminfo").read_text().splitlines()
        return next(int(row.split()[1]) for row in rows if row.startswith("MemAvailable:")) / 2**20
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def visible_gpus() -> list[str]:
    """The names by which CUDA_VISIBLE_DEVICES calls the GPUs of this machine."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name.strip()]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


class OneGPU(Callback):
    """Gives each process of a launcher one GPU, all in turn, for all of its jobs."""

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Before the job has looked at the GPUs; a process that has had a job before keeps its own."""
        if GIVEN not in os.environ and (gpus := visible_gpus()):
            os.environ["CUDA_VISIBLE_DEVICES"] = os.environ[GIVEN] = gpus[config.hydra.job.num % len(gpus)]

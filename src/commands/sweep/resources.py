"""Division of a machine's cores, memory and GPUs among the jobs of a sweep."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

GPU_VARIABLE = "DIFFUSION_LAB_GPU"  # environment variable with the GPU of this process


def default_n_jobs(
    threads: int,
    memory_gib: float,
    overrides: Sequence[str] = (),
    params: Mapping[str, str] | None = None,
    max_jobs: int | None = None,
) -> int:
    """The default number of parallel jobs: limited by cores, memory, GPUs, if there are any, and the number of jobs.

    Args:
        threads: minimum number of cores per job.
        memory_gib: memory per job in GiB.
        overrides, params: the overrides and sweeper params of the sweep, which determine its number of jobs.
        max_jobs: number of jobs if a search chooses them: its parallel trials.
    """
    import joblib

    most = [joblib.cpu_count() // threads, int(available_gib() // memory_gib)]
    if gpus := visible_gpus():
        most.append(len(gpus))
    return max(1, min(*most, max_jobs or count_jobs(overrides, params or {})))


def count_jobs(overrides: Sequence[str], params: Mapping[str, str]) -> int:
    """The number of jobs that the overrides of a sweep expand to."""
    parsed = OverridesParser.create().parse_overrides(
        [*(f"{name}={value}" for name, value in params.items()), *overrides]
    )
    return len(BasicSweeper.split_arguments(parsed, None)[0])


def available_gib() -> float:
    """The available memory in GiB, or the total memory if the system does not report it."""
    try:
        rows = Path("/proc/meminfo").read_text().splitlines()
        return next(int(row.split()[1]) for row in rows if row.startswith("MemAvailable:")) / 2**20
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def visible_gpus() -> list[str]:
    """The GPUs of this machine, as CUDA_VISIBLE_DEVICES names them."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name.strip()]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


class OneGPU(Callback):
    """Assign one GPU to each process of a launcher, in turn, for all of its jobs."""

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Set CUDA_VISIBLE_DEVICES before the first job of the process; later jobs keep it."""
        if GPU_VARIABLE not in os.environ and (gpus := visible_gpus()):
            os.environ["CUDA_VISIBLE_DEVICES"] = os.environ[GPU_VARIABLE] = gpus[config.hydra.job.num % len(gpus)]

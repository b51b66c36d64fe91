"""The device that is checked, and its counterpart on a CPU, where all checks are rehearsed."""

import os
import platform
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml

from src.commands.acceleration import compile_pipeline
from src.data.workers import cpus
from src.runs.git_state import git_commit
from src.samplers.pipeline import Pipeline
from src.utils.hardware import cpu_has_bf16, physical_memory
from src.utils.paths import CONF
from tests.benchmarks.loop.page import cpu_name
from tests.gpu.syncs import SyncCounter, cpu_sync_sites, cuda_sync_sites

GB = 1e9


class Device:
    """A CPU: what only a GPU has is replaced by what comes nearest, so that the code around it runs.

    Attributes:
        kind: as torch names it.
        trainer, ddp, fsdp: words of the training command: one device, one process of DDP, one of FSDP.
        jobs: processes at once beside this one.
        compiles: arguments of torch.compile for training; on a CPU the graph is traced, but no code made of it.
        fp16: words for float16 with a scaler.
    """

    kind = "cpu"
    trainer = ("trainer=cpu",)
    ddp = ("trainer=ddp_cpu", "trainer.devices=1")
    fsdp = (
        "trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.strategy.process_group_backend=gloo",
    )  # fmt: skip
    jobs = 1
    compiles: ClassVar[dict[str, Any]] = {"backend": "eager"}

    @property
    def place(self) -> torch.device:
        return torch.device(self.kind)

    @property
    def has_bf16(self) -> bool:
        return cpu_has_bf16()

    @property
    def memory(self) -> float:
        """Bytes."""
        return physical_memory() or 8 * GB

    def about(self) -> dict[str, Any]:
        """Where and when this is measured."""
        here = {"device": f"{cpu_name()} (rehearsal without a GPU)", "torch": torch.__version__}
        return here | {"python": platform.python_version(), "cores": cpus()} | when()

    def synchronize(self) -> None:
        """Wait until the device has done all its work."""

    def empty(self) -> None:
        """Free what is cached, and count the peak memory from here on."""

    def peak(self) -> float:
        """Bytes at most in use since `empty`; on a CPU of the whole life of this process."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)

    def compile_pipeline(self, pipeline: Pipeline, setting: bool | str) -> None:
        """Compile the network of a pipeline as src.sample does with compile=."""
        pipeline.denoiser.net.compile(**self.compiles)

    @contextmanager
    def exact(self) -> Iterator[None]:
        """Float32 in full; on a CPU another implementation of convolutions, so that there is something to compare."""
        with torch.backends.mkldnn.flags(enabled=False):
            yield

    def plan(self) -> str | None:
        """The file of conf/plan/ that describes it, without its ending."""
        return None

    @contextmanager
    def count_syncs(self, counter: SyncCounter) -> Iterator[None]:
        with counter.profile([torch.profiler.ProfilerActivity.CPU]):
            yield

    def sync_sites(self) -> Any:
        """Within this context, a dict fills with the lines of this project at which the host waits, and how often."""
        return cpu_sync_sites()


class CUDA(Device):
    """A GPU."""

    kind = "cuda"
    trainer = ("trainer=gpu",)
    ddp = ("trainer=ddp", "trainer.devices=1")  # NCCL
    fsdp = ("trainer=fsdp", "trainer.devices=1")
    jobs = max(2, min(6, cpus() // 2))
    compiles: ClassVar[dict[str, Any]] = {"dynamic": False}

    @property
    def has_bf16(self) -> bool:
        return torch.cuda.is_bf16_supported(including_emulation=False)

    @property
    def memory(self) -> float:
        return float(torch.cuda.get_device_properties(0).total_memory)

    def about(self) -> dict[str, Any]:
        found = torch.cuda.get_device_properties(0)
        return {
            "device": found.name,
            "memory": f"{found.total_memory / GB:.0f} GB",
            "capability": f"{found.major}.{found.minor}",
            "multiprocessors": found.multi_processor_count,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "python": platform.python_version(),
            "cpu": cpu_name(),
            "cores": cpus(),
        } | when()

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def empty(self) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float:
        return float(torch.cuda.max_memory_allocated())

    def compile_pipeline(self, pipeline: Pipeline, setting: bool | str) -> None:
        compile_pipeline(pipeline, setting)

    @contextmanager
    def exact(self) -> Iterator[None]:
        matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn
        before = matmul.allow_tf32, conv.allow_tf32
        matmul.allow_tf32 = conv.allow_tf32 = False
        try:
            yield
        finally:
            matmul.allow_tf32, conv.allow_tf32 = before

    def plan(self) -> str | None:
        return plan_of(torch.cuda.get_device_name(), self.memory)

    @contextmanager
    def count_syncs(self, counter: SyncCounter) -> Iterator[None]:
        with counter.profile([torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]):
            yield

    def sync_sites(self) -> Any:
        return cuda_sync_sites()


def when() -> dict[str, Any]:
    """The commit, which the environment may name where there is no repository, and the date."""
    return {"commit": git_commit() or os.environ.get("GPU_CHECK_COMMIT"), "date": date.today().isoformat()}


def plan_of(name: str, memory: float, folder: Path = CONF / "plan") -> str | None:
    """The file of conf/plan/ for a device of this name, as CUDA gives it, and memory in bytes."""
    matching = {}
    for file in sorted(folder.glob("*.yaml")):
        known = yaml.safe_load(file.read_text())
        words = re.sub(r"NVIDIA|\d+ GB", "", str(known["name"] or "no name")).split()
        if set(words) <= set(name.replace("-", " ").split()):
            matching[file.stem] = abs(float(known["memory"] or 0) - memory)
    return min(matching, key=matching.__getitem__) if matching else None


def find(kind: str | None) -> Device:
    """The device of this kind; by default the GPU.

    Raises:
        SystemExit: where there is none.
    """
    if kind == "cpu":
        return Device()
    if torch.cuda.is_available():
        return CUDA()
    raise SystemExit(
        "error: torch sees no GPU here; with one, look at nvidia-smi and at torch.version.cuda. "
        "To rehearse on a CPU: make gpu-check ARGS='--device cpu --tiny'"
    )

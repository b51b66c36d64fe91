"""Training runs on the device, each a command in a process of its own, several at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from src.loggers.metrics_csv import read_metrics
from src.utils.override_syntax import assignment
from tests.end_to_end.running import SETTINGS, kill_at
from tests.gpu.bench import Bench

# Dropout, dropped labels, attention, an average; no pictures.
RUN = [
    *(word for word in SETTINGS if word != "trainer=cpu"),
    "callbacks.sample_images=null",
    "trainer.limit_val_batches=1",
]
SAME = [*RUN, "net.dropout=0", "trainer.max_steps=8", "trainer.val_check_interval=8", "trainer.log_every_n_steps=1"]
KILLED_AT = 8  # after the validation and the checkpoint of step 5
OVERFLOW_AT = 6
# Benchmarking may choose other algorithms in each process.
DETERMINISTIC = ["trainer.deterministic=true", "trainer.benchmark=false"]
# Settings that must not change what is learned, each beside a run without it.
SETTINGS_OF_SPEED = {
    "checkpoint": ["net.checkpoint=true"],
    "channels_last": ["channels_last=true"],
    "fused": ["optimizer.fused=true"],
    "compile": ["compile=true"],
}
PLAIN = ["optimizer.fused=false"]
RESUMED = {
    "resume_deterministic": ["trainer.precision=32-true", *DETERMINISTIC],
    "resume_bf16": ["trainer.precision=bf16-mixed", *DETERMINISTIC],
    "resume_fp16": ["trainer.precision=16-mixed", *DETERMINISTIC],
    "resume_fast": ["trainer.precision=bf16-mixed"],
}


def folder(bench: Bench, name: str) -> Path:
    return bench.scratch / "runs" / name


def plain(bench: Bench) -> Path:
    """Eager, in float32, each setting at its plainest."""
    return bench.train(folder(bench, "plain"), [*SAME, *bench.device.trainer, *PLAIN])


def with_setting(name: str) -> Callable[[Bench], Path]:
    def job(bench: Bench) -> Path:
        words = [*SAME, *bench.device.trainer, *PLAIN, *SETTINGS_OF_SPEED[name]]
        return bench.train(folder(bench, name), words)

    return job


def ddp(bench: Bench) -> Path:
    """One process of DDP: NCCL on a GPU, gloo on a CPU."""
    return bench.train(folder(bench, "ddp"), [*SAME, *bench.device.ddp, *PLAIN, "trainer.precision=32-true"])


def fsdp(bench: Bench) -> Path:
    """One process that shards among itself."""
    words = [*SAME, *bench.device.fsdp, *PLAIN, "trainer.strategy.min_parameters=5000", "trainer.precision=32-true"]
    return bench.train(folder(bench, "fsdp"), words)


def whole(name: str) -> Callable[[Bench], Path]:
    def job(bench: Bench) -> Path:
        return bench.train(folder(bench, f"{name}_whole"), [*RUN, *bench.device.trainer, *RESUMED[name]])

    return job


def killed(name: str) -> Callable[[Bench], Path]:
    """A run that is killed, and resumed to its end."""

    def job(bench: Bench) -> Path:
        run = folder(bench, f"{name}_killed")
        bench.train(run, [*RUN, *bench.device.trainer, *RESUMED[name], *kill_at(KILLED_AT)], code=-9)
        return bench.train(run, [assignment("resume", run), "callbacks.fault=null", "trust=true"])

    return job


def fp16(bench: Bench) -> Path:
    """Float16 with a scaler and a forced overflow; overflow.json says what became of it."""
    run = folder(bench, "fp16")
    fault = {"_target_": "tests.gpu.faults.Overflow", "file": run / "overflow.json", "step": OVERFLOW_AT}
    words = [assignment(f"+callbacks.overflow.{key}", value) for key, value in fault.items()]
    return bench.train(run, [*RUN, *bench.device.trainer, "trainer.precision=16-mixed", *words])


def moved(bench: Bench) -> Path:
    """A run that begins on the device, goes on on the CPU, and ends on the device."""
    run, kind = folder(bench, "moved"), "gpu" if bench.device.kind == "cuda" else bench.device.kind
    short = ["trainer.max_steps=5", "callbacks.checkpoint.keep_every_n_steps=5"]
    bench.train(run, [*RUN, *bench.device.trainer, *short])
    for accelerator, steps in (("cpu", 10), (kind, 15)):
        words = [f"trainer.accelerator={accelerator}", f"trainer.max_steps={steps}"]
        bench.train(run, [assignment("resume", run), *words])
    return run


JOBS: dict[str, Callable[[Bench], Path]] = {
    "plain": plain,
    "ddp": ddp,
    "fsdp": fsdp,
    "fp16": fp16,
    "moved": moved,
    **{name: with_setting(name) for name in SETTINGS_OF_SPEED},
    **{f"{name}_whole": whole(name) for name in RESUMED},
    **{f"{name}_killed": killed(name) for name in RESUMED},
}


def losses(run: Path) -> list[float]:
    """The training losses that a run logged."""
    return [float(row["train/loss"]) for row in read_metrics(run / "metrics.csv") if "train/loss" in row]


def overflow(run: Path) -> dict[str, Any]:
    return json.loads((run / "overflow.json").read_text())

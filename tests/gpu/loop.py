"""What the training loop costs beside bare steps, and how often the host waits for the device in it."""

import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from src.commands.acceleration import use_channels_last
from src.commands.trainer import build_trainer
from src.commands.training import build_initial_module
from src.data.base import DataModule
from src.data.samples import TensorSamples
from src.utils.units import Kind
from tests.benchmarks.loop.turns import prepared
from tests.gpu.bench import Bench
from tests.gpu.measuring import OURS, autocast_of, batch_of, make, timed
from tests.gpu.models import MODELS, take_step
from tests.gpu.results import Outcome
from tests.gpu.syncs import READS, WAITS, SyncCounter

OVERHEAD = 3.0  # %, goal
STEPS = {"mnist_ddpm": 300, "unet_53m": 50}
SKIP = 22  # steps before any measurement; the next that is logged is step 40
COUNTED = 10


class Images(DataModule):
    """Noise as images, in memory: what they show makes no difference to the speed."""

    kind: Kind = "images"

    def load(self) -> None:
        x = (torch.randn(8 * self.batch_size, *self.shape) / 2).clamp(-1, 1)
        self.train_set, self.val_set = TensorSamples(x), TensorSamples(x[: self.batch_size])


class Between(pl.Callback):
    """Enters a context before one step and leaves it before another.

    Args:
        first, last: optimizer steps made.
        enter: called before the step, returns what is called at the end.
    """

    def __init__(self, first: int, last: int, enter: Callable[[], Callable[[], None]]):
        self.first, self.last, self.enter = first, last, enter
        self.leave: Callable[[], None] | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.first and self.leave is None:
            self.leave = self.enter()
        if trainer.global_step == self.last and self.leave is not None:
            self.leave()


def config(bench: Bench, name: str) -> DictConfig:
    """Of a model's training on the device: all callbacks and loggers, no validation, no checkpoint meanwhile."""
    data = bench.digits if name == "mnist_ddpm" else []
    cfg = MODELS[name].config(bench.tiny, *data, *bench.device.trainer, folder=bench.scratch / f"loop_{name}")
    cfg.data.batch_size = batch_of(MODELS[name], bench.device, bench.tiny)
    cfg.trainer.precision, cfg.trainer.limit_val_batches = autocast_of(bench.device)[1], 0
    cfg.callbacks.checkpoint.every_n_steps = 10**9
    if name != "mnist_ddpm":
        shape = {"channels": cfg.data.channels, "size": cfg.data.size, "batch_size": cfg.data.batch_size}
        cfg.data = {"_target_": "tests.gpu.loop.Images", **shape}
    return cfg


def fit(cfg: DictConfig, place: torch.device, steps: int, callbacks: list[pl.Callback]) -> None:
    """Train by the trainer of the command."""
    cfg = cast(DictConfig, OmegaConf.merge(cfg, {"trainer": {"max_steps": steps}}))
    Path(cfg.paths.run).mkdir(parents=True, exist_ok=True)
    data = prepared(cfg)
    module = build_initial_module(cfg)
    use_channels_last(cfg.channels_last, module, place, half=True)
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):  # the bars
        trainer = build_trainer(cfg)
        trainer.callbacks += callbacks
        trainer.fit(module, data)


def overhead(bench: Bench, found: Outcome, name: str) -> None:
    """A step of the whole loop over a bare one, in turns."""
    bench.jobs.wait()
    cfg, device = config(bench, name), bench.device
    steps = 3 if bench.tiny else STEPS[name]
    skip = 2 if bench.tiny else SKIP
    n, dtype = cfg.data.batch_size, autocast_of(device)[0]
    bare, loop = [], []
    for _ in range(1 if bench.tiny else 2):
        side = make(OURS, MODELS[name], MODELS[name].config(bench.tiny), n, device, bench.tiny)
        for _ in range(skip):
            take_step(side, dtype)
        bare.append(timed(side, dtype, device, steps))
        del side
        seconds: list[float] = []
        fit(cfg, device.place, skip + steps + 1, [Between(skip, skip + steps, partial(clock, device, seconds))])
        loop.append(seconds[0] / steps)
        bench.clean()
    one, other = statistics.median(loop), statistics.median(bare)
    row = {"loop": name, "batch": n, "a step of the loop, ms": 1000 * one, "a bare step, ms": 1000 * other}
    found.row(**row)
    found.add("the loop over bare steps", 100 * (one / other - 1), "%", at_most=OVERHEAD, goal=True)


def clock(device: Any, seconds: list[float]) -> Callable[[], None]:
    """Start; what it returns notes the seconds since then."""
    device.synchronize()
    began = time.perf_counter()

    def stop() -> None:
        device.synchronize()
        seconds.append(time.perf_counter() - began)

    return stop


def syncs(bench: Bench, found: Outcome, name: str) -> None:
    """How often the host waits within steps that log nothing, by the profiler; and at which lines."""
    bench.jobs.wait()
    cfg, counter, device = config(bench, name), SyncCounter(), bench.device
    sites: dict[str, Any] = {}

    def entered(context: Any, key: str | None = None) -> Callable[[], None]:
        stack = ExitStack()
        value = stack.enter_context(context)
        if key is not None:
            sites[key] = value
        return stack.close

    first, n = (2, 2) if bench.tiny else (SKIP, COUNTED)
    second, logged = first + n + 1, 40 if not bench.tiny else 20
    fit(
        cfg,
        device.place,
        logged + 1,
        [
            Between(first, first + n, lambda: entered(device.count_syncs(counter))),
            Between(second, second + 3, lambda: entered(device.sync_sites(), "in a step")),
            Between(logged - 1, logged, lambda: entered(device.sync_sites(), "in a step that is logged")),
        ],
    )
    for name_ in (*WAITS, *READS):
        found.add(f"{name_}, a step", counter.counts[name_] / n)
    waits = counter.waits if device.kind == "cuda" else counter.counts[READS[0]]
    found.add("waits for the device, a step", waits / n, at_most=0.0, goal=True)
    for key, counted in sites.items():
        for line, times in sorted(counted.items(), key=lambda item: -item[1]):
            found.row(**{"the host waits": key, "at": line, "times": times})

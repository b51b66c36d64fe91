"""What the guard measures in its own process: ours and the plain loop in turns, so that both are slowed by the same."""

import os
import statistics
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, cast

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image, ImageDraw

from src.commands.sampling_setup import build_pipeline
from src.commands.trainer import build_trainer
from src.data.base import DataModule
from src.runs.loading import build_denoiser
from tests.benchmarks.loop.loops import SKIP, noise, plain_loop
from tests.benchmarks.loop.page import Figure
from tests.benchmarks.loop.watch import Watch
from tests.benchmarks.samplers import Row

SAMPLES, EVALUATIONS = 64, 10


def training(name: str, cfg: DictConfig, rounds: int, seconds: float) -> Figure:
    """A step of the command's own trainer, with all of its callbacks and loggers, beside one of the plain loop."""
    data = prepared(cfg)
    n = cfg.data.batch_size
    first = [torch.arange(i, i + n) for i in range(0, min(len(data.train_set) - n, 8 * n) + 1, n)]
    batches = [data.train_set[0, indices] for indices in first]
    trial = statistics.median(plain_loop(cfg, batches, SKIP + 3))
    steps = SKIP + max(3, min(100, round(seconds / trial)))
    figure = Figure(f"training step, `{name}`", "plain loop", "ms", [], [])
    for _ in range(rounds):
        figure.theirs.append(statistics.median(plain_loop(cfg, batches, steps)))
        figure.ours.append(statistics.median(command_loop(cfg, data, steps)))
    return figure


def command_loop(cfg: DictConfig, data: DataModule, steps: int) -> list[float]:
    """Seconds of each step of the training command's trainer."""
    module, watch = instantiate(cfg.module)(denoiser=build_denoiser(cfg)), Watch()
    cfg = cast(DictConfig, OmegaConf.merge(cfg, {"trainer": {"max_steps": steps, "limit_val_batches": 0}}))
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):  # the bars
        trainer = build_trainer(cfg)
        trainer.callbacks.append(watch)
        trainer.fit(module, data)
    return watch.times


def sampling(cfg: DictConfig, sampler: str, rounds: int) -> Figure:
    """The walk of `src.sample` beside as many bare evaluations of the net."""
    shape = (cfg.data.channels, *cfg.data.size)
    denoiser = build_denoiser(cfg).eval().requires_grad_(False)
    model = build_pipeline(Row(sampler, (f"sampler.steps={EVALUATIONS}",)).config(cfg), denoiser, shape)
    figure = Figure(f"{SAMPLES} samples in {EVALUATIONS} steps of `{sampler}`", "", "ms", [], [])
    x, c_noise = torch.randn(SAMPLES, *shape), torch.zeros(SAMPLES)
    with torch.autocast("cpu", torch.bfloat16, enabled=cfg.trainer.precision == "bf16-mixed"), torch.no_grad():
        denoiser.net(x, c_noise)
        for _ in range(rounds):
            with model.count_nfe() as cost:
                model.sample(SAMPLES)
            figure.ours.append(cost.seconds)
            evaluations = cost.evaluations // SAMPLES
            figure.theirs.append(timed(denoiser.net, x, c_noise, times=evaluations))
    figure.reference = f"{evaluations} evaluations"
    return figure


def loading(cfg: DictConfig, rounds: int, batches: int) -> list[Figure]:
    """The loader of a folder of images alone, beside a training step: from memory, and decoding in this process."""
    step = statistics.median(plain_loop(cfg, [noise(cfg)], SKIP + 3))
    figures = []
    for how, gigabytes in {"in memory": 1.0, "decoded on demand": 0.0}.items():
        cfg.data.cache_gb = gigabytes
        data = prepared(cfg)
        data.num_workers = 0
        one = min(batches, data.train_batches)
        loads = [timed(take, data, one) / one for _ in range(rounds)]
        figures.append(Figure(f"a batch of `folder_ddpm`, {how}", "a training step", "ms", loads, [step] * rounds))
    return figures


def take(data: DataModule, batches: int) -> None:
    """Load so many batches."""
    loader = iter(data.train_dataloader())
    for _ in range(batches):
        next(loader)


def prepared(cfg: DictConfig) -> DataModule:
    data: DataModule = instantiate(cfg.data)
    data.prepare_data()
    data.setup("fit")
    return data


def timed(work: Callable[..., Any], *args: Any, times: int = 1) -> float:
    """Seconds that it takes to do something so many times."""
    began = time.perf_counter()
    for _ in range(times):
        work(*args)
    return time.perf_counter() - began


def draw_pngs(folder: Path, n: int, different: int = 300, side: int = 32) -> Path:
    """A folder of n gray PNGs with strokes like those of digits, of which only the first ones are `different`."""
    folder.mkdir(parents=True)
    draws = torch.Generator().manual_seed(0)
    for i in range(n):
        path = folder / f"{i:06}.png"
        if i >= different:
            path.hardlink_to(folder / f"{i % different:06}.png")
            continue
        picture = Image.new("L", (side, side))
        points = [tuple(p) for p in (side * (0.15 + 0.7 * torch.rand(4, 2, generator=draws))).tolist()]
        ImageDraw.Draw(picture).line(points, fill=255, width=3, joint="curve")
        picture.save(path)
    return folder

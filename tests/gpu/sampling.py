"""Samples per second: eager, compiled, and with CUDA graphs."""

import statistics
import time
from typing import Any

import torch
from hydra.utils import instantiate

from src.commands.training import build_initial_module
from src.samplers.pipeline import Pipeline
from tests.gpu.bench import Bench
from tests.gpu.device import Device
from tests.gpu.measuring import autocast_of
from tests.gpu.models import MODELS
from tests.gpu.results import Outcome

COMPILED_SAMPLING = "sampling"
N = 256  # samples at a time, as src.sample draws them
ROUNDS = 3


def modes(device: Device) -> dict[str, dict[str, Any] | None]:
    """Arguments of torch.compile by mode; None for eager."""
    return {"eager": None, "compiled": device.compiles, "CUDA graphs": device.graphs}


def build(device: Device, tiny: bool, compiles: dict[str, Any] | None) -> Pipeline:
    """The sampling of mnist_ddpm: DPM-Solver++ with guidance towards clusters."""
    cfg = MODELS["mnist_ddpm"].config(tiny, *(["sampler.steps=3"] if tiny else []))
    module = build_initial_module(cfg).to(device.place)
    denoiser = module.denoiser.eval().requires_grad_(False)
    denoiser.net.to(memory_format=torch.channels_last)
    if compiles is not None:
        denoiser.net.compile(**compiles)
    sampler = instantiate(cfg.sampler)(schedule=denoiser.schedule)
    n = 2 if tiny else N
    cond = torch.arange(n) % denoiser.condition.num_classes
    shape = (cfg.data.channels, *cfg.data.size)
    return Pipeline(denoiser, sampler, shape, instantiate(cfg.guidance), cond, batch_size=n)


def draw(pipeline: Pipeline, device: Device) -> float:
    """Seconds of drawing one batch."""
    device.synchronize()
    began = time.perf_counter()
    with torch.autocast(device.kind, autocast_of(device)[0]):
        pipeline.sample(pipeline.batch_size)
    device.synchronize()
    return time.perf_counter() - began


def compile_sampling(device: Device, tiny: bool) -> None:
    for compiles in (device.compiles, device.graphs):
        draw(build(device, tiny, compiles), device)


def sampling(bench: Bench, found: Outcome) -> None:
    """Samples of mnist_ddpm per second in each mode."""
    bench.jobs.wait()
    rates: dict[str, float] = {}
    for mode, compiles in modes(bench.device).items():
        pipeline = build(bench.device, bench.tiny, compiles)
        with pipeline.count_nfe() as cost:
            first = draw(pipeline, bench.device)
        seconds = statistics.median(draw(pipeline, bench.device) for _ in range(1 if bench.tiny else ROUNDS))
        rates[mode] = pipeline.batch_size / seconds
        found.row(
            **{
                "sampling of mnist_ddpm": mode,
                "samples at a time": pipeline.batch_size,
                "evaluations of each": cost.evaluations / pipeline.batch_size,
                "samples/s": rates[mode],
                "first batch, s": first,
            }
        )
        bench.clean()
    for mode in ("compiled", "CUDA graphs"):
        found.add(f"samples/s, {mode} over eager", rates[mode] / rates["eager"], at_least=1.0, goal=True)

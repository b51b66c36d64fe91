"""Samples per second: eager, compiled, and with CUDA graphs."""

import statistics
import time

import torch
from hydra.utils import instantiate

from src.commands.acceleration import use_channels_last
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


# The setting compile= of src.sample by mode; None for eager.
MODES: dict[str, bool | str | None] = {"eager": None, "compiled": True, "CUDA graphs": "reduce-overhead"}


def build(device: Device, tiny: bool, setting: bool | str | None) -> Pipeline:
    """The sampling of mnist_ddpm: DPM-Solver++ with guidance towards clusters."""
    cfg = MODELS["mnist_ddpm"].config(tiny, *(["sampler.steps=3"] if tiny else []))
    module = build_initial_module(cfg).to(device.place)
    denoiser = module.denoiser.eval().requires_grad_(False)
    use_channels_last(True, denoiser, device.place, half=True)
    sampler = instantiate(cfg.sampler)(schedule=denoiser.schedule)
    n = 2 if tiny else N
    cond = torch.arange(n) % denoiser.condition.num_classes
    shape = (cfg.data.channels, *cfg.data.size)
    pipeline = Pipeline(denoiser, sampler, shape, instantiate(cfg.guidance), cond, batch_size=n)
    if setting is not None:
        device.compile_pipeline(pipeline, setting)
    return pipeline


def draw(pipeline: Pipeline, device: Device) -> float:
    """Seconds of drawing one batch."""
    device.synchronize()
    began = time.perf_counter()
    with torch.autocast(device.kind, autocast_of(device)[0]):
        pipeline.sample(pipeline.batch_size)
    device.synchronize()
    return time.perf_counter() - began


def compile_sampling(device: Device, tiny: bool) -> None:
    """Draw a batch in each mode that compiles."""
    for setting in filter(None, MODES.values()):
        draw(build(device, tiny, setting), device)


def sampling(bench: Bench, found: Outcome) -> None:
    """Samples of mnist_ddpm per second in each mode."""
    bench.jobs.wait()
    rates: dict[str, float] = {}
    for mode, setting in MODES.items():
        pipeline = build(bench.device, bench.tiny, setting)
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

"""The plain loop over the net, the loss and the optimizer of a config, which all else is compared with.

It has no data loading, no average of the weights, no clipping, no logging and no hooks. As a process of its own, for
its peak memory: `python -m tests.benchmarks.loop.loops CONFIG STEPS`, on noise, without what only
the training command imports.
"""

import sys
import time
from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.runs.loading import build_denoiser

SKIP = 3  # steps that warm up


def plain_loop(cfg: DictConfig, batches: list[dict[str, Any]], steps: int) -> list[float]:
    """Seconds of each step that does the arithmetic alone."""
    return list(islice(plain_steps(cfg, batches), SKIP, steps))


def plain_steps(cfg: DictConfig, batches: list[dict[str, Any]]) -> Iterator[float]:
    """Take a step whenever asked, and yield its seconds."""
    denoiser = build_denoiser(cfg)
    loss, times = instantiate(cfg.loss), instantiate(cfg.time_sampler)
    optimizer = instantiate(cfg.optimizer)(denoiser.parameters())
    draws = torch.Generator().manual_seed(0)
    for batch in cycle(batches):
        begin = time.perf_counter()
        x = batch["x"]
        cond = denoiser.condition(batch)
        t = times(len(x), draws, denoiser.schedule)
        with torch.autocast("cpu", torch.bfloat16, enabled=cfg.trainer.precision == "bf16-mixed"):
            value = loss(denoiser, x, t, torch.randn_like(x), cond).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        yield time.perf_counter() - begin


def noise(cfg: DictConfig) -> dict[str, Any]:
    """A batch that looks like the data."""
    n = cfg.data.batch_size
    return {"x": torch.randn(n, cfg.data.channels, *cfg.data.size), "label": torch.zeros(n, dtype=torch.int64)}


if __name__ == "__main__":
    config: Any = OmegaConf.load(sys.argv[1])
    plain_loop(config, [noise(config)], int(sys.argv[2]))

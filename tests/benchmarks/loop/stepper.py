"""A process that takes training steps on request: for each line, seconds, it answers with the seconds of one step.

`python -m tests.benchmarks.loop.stepper CONFIG` trains the net of a config on noise; without a config, a stack of
small convolutions in bfloat16, where threads wait for each other most often.
"""

import sys
import time
from collections.abc import Iterator
from statistics import fmean
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from tests.benchmarks.loop.loops import SKIP, noise, plain_steps


def convolution_steps() -> Iterator[float]:
    """Forward and backward through 12 convolutions of 32 channels on a batch of 16 maps of 14×14."""
    net = nn.Sequential(*(nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.SiLU()) for _ in range(12)))
    x = torch.randn(16, 32, 14, 14)
    while True:
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            net(x).square().mean().backward()
        net.zero_grad()
        yield time.perf_counter() - begin


def main(words: list[str]) -> None:
    config: Any = OmegaConf.load(words[0]) if words else None
    steps = plain_steps(config, [noise(config)]) if config else convolution_steps()
    for _ in range(SKIP):
        next(steps)
    print("ready", flush=True)
    for line in sys.stdin:
        end = time.perf_counter() + float(line)
        taken = [next(steps)]
        while time.perf_counter() < end:
            taken.append(next(steps))
        print(fmean(taken), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

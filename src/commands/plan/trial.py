"""Real training steps in batches of different sizes, on a module that is thrown away."""

import gc
from collections.abc import Callable
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from src.commands.acceleration import use_channels_last
from src.commands.plan.estimate import SPARE
from src.commands.plan.fitting import usable_memory
from src.commands.plan.profile import build_module, dtypes, make_step
from src.utils.errors import is_out_of_memory

STEPS = 2  # in the second the state of the optimizer exists


class Trial:
    """Whether batches fit in the memory of a device, found by training steps of the real net, optimizer and precision.

    The weights, the optimizer and all random numbers are its own: none reach the run.

    Args:
        cfg: the resolved config.
        device: the device of this process.
        replicas: number of processes that train together; several keep a second copy of the gradients.

    Attributes:
        memory: bytes that may be used.
        peaks: bytes used at the sizes that fit, by size.
    """

    def __init__(self, cfg: DictConfig, device: torch.device, replicas: int = 1):
        self.device, self.precision = device, cfg.trainer.precision
        self.shape = (cfg.data.channels, *cfg.data.size)
        self.memory = SPARE * (usable_memory(device) or float("inf"))
        self.peaks: dict[int, float] = {}
        self.module = build_module(cfg, [instantiate(c) for c in cfg.callbacks.values() if c])
        use_channels_last(cfg.channels_last, self.module, device, dtypes(self.precision)[1] is not None)
        gradients = sum(p.numel() for p in self.module.trained_parameters() if p.requires_grad)
        self.buckets = torch.zeros(gradients if replicas > 1 else 0, device=device)

    def fits(self, n: int) -> bool:
        """True if a step of n samples leaves a tenth of the memory free."""
        self.free()
        try:
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                step: Callable[[], Any] = make_step(self.module, self.shape, n, self.precision, self.device)
                for _ in range(STEPS):
                    step()
            peak = self.peak()
        except Exception as error:
            if is_out_of_memory(error):
                return False
            raise
        if peak <= self.memory:
            self.peaks[n] = peak
        return peak <= self.memory

    def free(self) -> None:
        """Free what the last step left, and forget its peak."""
        self.module.zero_grad(set_to_none=True)
        empty_cache(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> float:
        """Bytes that the last steps reserved; 0 on a CPU, where they cannot be measured."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return float(torch.cuda.max_memory_reserved(self.device))
        if self.device.type == "mps":
            torch.mps.synchronize()
            return float(torch.mps.driver_allocated_memory())
        return 0.0

    def close(self) -> None:
        """Give the memory back."""
        self.module.to("meta")
        del self.module, self.buckets
        empty_cache(self.device)


def empty_cache(device: torch.device) -> None:
    """Give the memory of tensors that are gone back to the device."""
    if device.type == "cpu":
        return
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()

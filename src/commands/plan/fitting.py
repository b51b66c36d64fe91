"""The batches that fit in the memory of a device, by the estimate of plan=."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.commands.plan.device import Plan
from src.commands.plan.estimate import Layout, memory_of
from src.commands.plan.profile import build_module, profile_step
from src.utils.hardware import physical_memory

PROFILED = 8  # samples of the step that is profiled; the memory of others is extrapolated, since it is linear


def usable_memory(device: torch.device) -> float | None:
    """Bytes that this process can use on a device: what is free, and what it holds; None if unknown."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
    return float(torch.mps.recommended_max_memory()) if device.type == "mps" else physical_memory()


def estimated_batch(cfg: DictConfig, memory: float, on_gpu: bool, devices: int = 1, sharded: bool = False) -> int:
    """The largest number of samples per device whose training step is estimated to fit; 0 if not even one does.

    Args:
        cfg: the resolved config; its batch size is not read.
        memory: bytes of each device.
        on_gpu: True for GPUs.
        devices: their number.
        sharded: True for weights that are divided among them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        callbacks = [instantiate(c) for c in cfg.callbacks.values() if c]
        shape = (cfg.data.channels, *cfg.data.size)
        costs = profile_step(build_module(cfg, callbacks, fake=True), shape, PROFILED, cfg.trainer.precision, on_gpu)
    most = memory_of(costs, Plan(memory=memory), Layout(devices, PROFILED, sharded)).most
    assert most is not None
    return most


def savings(cfg: DictConfig, on_gpu: bool) -> Iterator[tuple[str, DictConfig]]:
    """The overrides that save memory and that a config does not have yet, each with the changed config."""
    bf16 = on_gpu and (torch.cuda.is_bf16_supported(including_emulation=False) if torch.cuda.is_available() else False)
    wanted: dict[str, Any] = {"net.checkpoint": True} if cfg.net.get("checkpoint") is False else {}
    if on_gpu and str(cfg.trainer.precision).startswith("32"):
        wanted["trainer.precision"] = "bf16-mixed" if bf16 else "16-mixed"
    for key, value in wanted.items():
        changed = copy.deepcopy(cfg)
        OmegaConf.update(changed, key, value)
        yield f"{key}={str(value).lower()}", changed


def what_fits(cfg: DictConfig, device: torch.device, devices: int, sharded: bool) -> tuple[int, str]:
    """The largest batch per device by the estimate, and a sentence about it and the settings that save memory.

    Both are empty, 0 and "", if the estimate cannot be made: it must not hide the error that asks for it.
    """
    memory, on_gpu = usable_memory(device), device.type != "cpu"
    if memory is None:
        return 0, ""
    found: list[tuple[str, int]] = []
    for said, changed in [("", cfg), *savings(cfg, on_gpu)]:
        with suppress(Exception):
            found.append((said, estimated_batch(changed, memory, on_gpu, devices, sharded)))
    if not found or found[0][0]:
        return 0, ""
    each = " on each device" if devices > 1 else ""
    more = "".join(f", {n:,} with {said}" for said, n in found[1:])
    return found[0][1], f"by the estimate of plan= {found[0][1]:,} samples fit{each}{more}"

"""Properties of the machine: default precision, memory, and the compiler."""

import os
import shutil
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from src.utils.errors import UserError

CUDA_GRAPHS = ("reduce-overhead", "max-autotune")  # the modes of torch.compile that use them


def default_precision(accelerator: str) -> str:
    """The fastest precision that trains as well as float32: bf16 autocast on hardware with bf16 units.

    On a GPU without them it is float16 autocast, with a gradient scaler.

    A CPU without such units converts to float32 and back, which is slower than float32 alone.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    if accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
        return "32-true"
    return "bf16-mixed" if cpu_has_bf16() else "32-true"


def autocast_dtype(precision: str) -> torch.dtype | None:
    """The data type of autocast at a precision such as bf16-mixed, bf16, 16 or 32; None without autocast."""
    return {"bf16": torch.bfloat16, "16": torch.float16}.get(precision.partition("-")[0])


def cpu_has_bf16() -> bool:
    """Return True if the CPU has bf16 units (AVX512-BF16 or AMX)."""
    try:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    except AttributeError:  # private names, which another version of torch may lack
        return False


def is_main_process() -> bool:
    """Return True on rank zero; known from the launcher's variables before a trainer exists."""
    return getattr(rank_zero_only, "rank", 0) == 0


def physical_memory() -> float | None:
    """The memory of the machine in bytes, or None if unknown."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) if hasattr(os, "sysconf") else None


def compile_net(net: nn.Module, device: torch.device, setting: bool | str = True) -> None:
    """Compile the network in place with torch.compile at its first call; its weights keep their names.

    Args:
        net: the network.
        device: the device that it will be on.
        setting: a mode of torch.compile, or True for the default one.

    Raises:
        UserError: if no compiler is installed.
    """
    compilers = (os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl")
    if device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise UserError("compile=true needs a C++ compiler on a CPU, such as g++; install one, or set compile=false")
    torch.compiler.reset()  # else torch counts the nets of earlier jobs, and gives up at the ninth
    net.compile(mode="default" if setting is True else setting)


class CompiledNet(nn.Module):
    """A network compiled for sampling, of which many evaluations are compared or combined.

    CUDA graphs write the outputs of all evaluations to the same memory, so each output is copied.

    Args:
        net, device, setting: see `compile_net`.
    """

    def __init__(self, net: nn.Module, device: torch.device, setting: bool | str = True):
        super().__init__()
        compile_net(net, device, setting)
        self.net = net
        self.has_graphs = device.type == "cuda" and setting in CUDA_GRAPHS

    def forward(self, *args: Any) -> torch.Tensor:
        if not self.has_graphs:
            return self.net(*args)
        if not torch.is_grad_enabled():  # else a backward pass, before which nothing may be overwritten, is to come
            torch.compiler.cudagraph_mark_step_begin()
        return self.net(*args).clone()

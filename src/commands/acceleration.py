"""Settings that make a device faster: TF32, the layout of images in memory, and compiled sampling."""

from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from src.diffusion.denoiser import Denoiser
from src.samplers.pipeline import Pipeline, guide_denoisers
from src.utils.hardware import CompiledNet

DEFAULTS = {"compile": False, "tf32": True, "channels_last": "auto"}


def set_tf32(allow: bool, device: torch.device) -> bool:
    """Allow or forbid TF32 in float32 products and convolutions of a CUDA device; returns if it is in use."""
    if device.type != "cuda":
        return False
    # torch.set_float32_matmul_precision would change the CPU too.
    torch.backends.cuda.matmul.allow_tf32 = allow
    torch.backends.cudnn.allow_tf32 = allow
    return allow


def use_channels_last(setting: bool | str, model: nn.Module, device: torch.device, half: bool) -> bool:
    """Use channels_last in all denoisers of a model, if the setting says so; returns if it does.

    Args:
        setting: True, False, or auto: on CUDA, in half precision, for networks with 2-D convolutions.
        model: the model.
        device: its device.
        half: True for autocast to bf16 or float16.
    """
    denoisers = [part for part in model.modules() if isinstance(part, Denoiser)]
    convolves = any(isinstance(layer, nn.Conv2d) for part in denoisers for layer in part.net.modules())
    wanted = setting is True or (setting == "auto" and device.type == "cuda" and half and convolves)
    if wanted:
        for part in denoisers:
            part.use_channels_last()
    return wanted


def compile_pipeline(pipeline: Pipeline, setting: bool | str) -> None:
    """Compile the networks of a pipeline, those of its guidance included."""
    for part in {pipeline.denoiser, *guide_denoisers(pipeline.guidance)}:
        part.net = CompiledNet(part.net, pipeline.device, setting)


def changed_settings(cfg: DictConfig) -> dict[str, Any]:
    """The settings of this module that are not the default: they change the last digits of samples."""
    return {key: cfg[key] for key, default in DEFAULTS.items() if cfg[key] != default}

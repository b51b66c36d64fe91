"""Whether the device computes what the CPU does: losses, gradients and samples of an experiment."""

from copy import deepcopy
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from src.commands.training import build_initial_module
from src.samplers.base import SeededNoise
from src.samplers.pipeline import Pipeline
from src.utils.seeding import generator
from tests.benchmarks.loop.commands import composed
from tests.gpu.bench import Bench
from tests.gpu.results import Outcome

FLOAT32 = 1e-4  # relative error: rounding, and the order of sums
TIMES_THE_CPU = 3.0  # of the error that bf16 makes on a CPU
LEAST_BF16 = 2.0**-8  # the rounding of a bf16

# What differs: signals, points, images; U-Net, MLP and transformer; attention; every kind of loss and of output.
EXPERIMENTS: dict[str, list[str]] = {
    "sine_ddpm": [],
    "mixture_flow": [],
    "mnist_ddpm": [],
    "mnist_edm": [],
    "mnist_iddpm": [],
    "cifar_conditional": ["data.root=."],  # which is not read
    "digits_dit": ["experiment=digits_ddpm", "net=dit", "net.patch_size=2"],
    "sine_vlb": [],
}
TINY = ["net.width=16", "sampler.steps=2"]
TINY_CIFAR = ["net.channel_mults=[1,2]", "net.attention_levels=[1]"]


class SharedNoise(Pipeline):
    """A pipeline whose noise is drawn on the CPU, so that all devices have the same."""

    def noise(self, indices: range, purpose: str = "") -> Any:
        draw = SeededNoise([f"{self.seed}{purpose}/{i}" for i in indices])
        return lambda x: draw(x.cpu()).to(x.device)


def agree(bench: Bench, found: Outcome, name: str) -> None:
    """Compare an experiment on the device with the CPU, in float32 without TF32 and in bf16."""
    words = EXPERIMENTS[name]
    words = words if any(word.startswith("experiment=") for word in words) else [f"experiment={name}", *words]
    if bench.tiny:
        words = [*words, *TINY, *(TINY_CIFAR if name == "cifar_conditional" else [])]
    cfg = composed(["sampler.steps=6", *words, "trainer=cpu"], bench.scratch / name)
    module = awake(build_initial_module(cfg)).eval()  # without dropout, whose masks differ between devices
    batch = draw_batch(module, cfg, 2 if bench.tiny else 8)
    reference = measure(module, cfg, batch)
    copy = deepcopy(module).to(bench.device.place)
    with bench.device.exact():
        for what, value in measure(copy, cfg, batch).items():
            found.add(f"{what}, float32", difference(reference[what], value), at_most=FLOAT32)
        if not bench.device.has_bf16:
            found.note("this device has no units for bf16: not compared")
            return
        rounded = measure(module, cfg, batch, torch.bfloat16)
        for what, value in measure(copy, cfg, batch, torch.bfloat16).items():
            limit = max(LEAST_BF16, TIMES_THE_CPU * difference(reference[what], rounded[what]))
            found.add(f"{what}, bf16", difference(reference[what], value), at_most=limit)


def awake(module: nn.Module) -> Any:
    """Fill weights that are initially zero, behind which errors would not show."""
    draws = torch.Generator().manual_seed(0)
    for p in module.denoiser.parameters():
        if p.requires_grad and not p.any():
            std = 0.5 / p[0].numel() ** 0.5 if p.ndim > 1 else 0.1
            p.data = std * torch.randn(p.shape, generator=draws)
    return module


def draw_batch(module: Any, cfg: DictConfig, n: int) -> dict[str, Any]:
    """Arguments of the loss, on the CPU; the values of images are levels of 8 bits."""
    draws = generator("gpu check")
    shape = (n, cfg.data.channels, *cfg.data.size)
    x_0 = torch.randint(256, shape, generator=draws) / 127.5 - 1
    classes = module.denoiser.condition.num_classes
    return {
        "x_0": x_0,
        "t": module.time_sampler(n, draws, module.denoiser.schedule),
        "noise": torch.randn(shape, generator=draws),
        "cond": torch.arange(n) % classes if classes else None,
    }


def measure(
    module: Any, cfg: DictConfig, batch: dict[str, Any], autocast: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Losses (B,), the gradient of their mean as one vector, and samples, on the CPU."""
    denoiser = module.denoiser
    device = next(denoiser.parameters()).device
    moved = {k: v.to(device) if isinstance(v, Tensor) and k != "t" else v for k, v in batch.items()}
    module.zero_grad()
    with torch.autocast(device.type, autocast, enabled=autocast is not None):
        losses = module.loss(denoiser, **moved)
        losses.mean().backward()
        gradients = [p.grad.flatten() for p in module.trained_parameters() if p.grad is not None]
        sampler = instantiate(cfg.sampler)(schedule=denoiser.schedule)
        shape = batch["x_0"].shape[1:]
        pipeline = SharedNoise(denoiser, sampler, shape, instantiate(cfg.guidance), batch["cond"])
        samples = pipeline.sample(len(batch["x_0"]))
    found = {"losses": losses.detach(), "gradients": torch.cat(gradients), "samples": samples}
    return {name: value.float().cpu() for name, value in found.items()}


def difference(a: Tensor, b: Tensor) -> float:
    """The norm of the difference, over that of a."""
    return float((a.double() - b.double()).norm() / a.double().norm())

"""The models whose speed is measured, and the nearest of diffusers, each trained as a careful user would."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from src.commands.acceleration import use_channels_last
from src.commands.training import build_initial_module
from src.utils.seeding import generator
from tests.benchmarks.loop.commands import composed

UNET_64 = [
    "experiment=folder_ddpm", "data.root=.", "data.size=[64,64]", "net.width=128", "net.channel_mults=[1,2,2,3]",
    "net.num_blocks=2", "net.patch_size=1", "net.attention_levels=[2,3]", "net.dropout=0.0",
]  # fmt: skip
DIT_64 = [
    "experiment=folder_ddpm", "data.root=.", "data.size=[64,64]", "net=dit", "net.width=768", "net.depth=12",
    "net.num_heads=12", "net.patch_size=4",
]  # fmt: skip
CLIP = 1.0


@dataclass(frozen=True)
class Model:
    """A model of this project and its nearest one of diffusers.

    Attributes:
        words: of the training command.
        tiny: words that make it tiny, for rehearsals.
        peer: makes the net of diffusers; tiny or not.
        batch: images, where the device has room for them.
        image_bytes: about what one more image takes.
        peak_share: goal for the share of peak arithmetic.
        channels_last: True for nets of convolutions.
    """

    words: tuple[str, ...]
    tiny: tuple[str, ...]
    peer: Callable[[bool], nn.Module]
    image_bytes: float
    batch: int = 64
    peak_share: float | None = None
    channels_last: bool = True

    def config(self, tiny: bool, *more: str, folder: Path = Path(os.devnull)) -> DictConfig:
        """The config of a run in a folder; by default of one that writes nothing."""
        return composed([*self.words, "trainer=cpu", *(self.tiny if tiny else ()), *more], folder)


def diffusers_unet(channels: int, side: int, widths: tuple[int, ...], blocks: int, **options: Any) -> nn.Module:
    """A U-Net with attention at the lower half of its levels, as ours has."""
    from diffusers import UNet2DModel

    attend = [2 * i >= len(widths) for i in range(len(widths))]
    down = tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attend)
    return UNet2DModel(
        sample_size=side, in_channels=channels, out_channels=channels, block_out_channels=widths,
        layers_per_block=blocks, down_block_types=down,
        up_block_types=tuple(name.replace("Down", "Up") for name in down[::-1]), **options,
    )  # fmt: skip


def diffusers_mnist(tiny: bool) -> nn.Module:
    """0.99 million parameters; ours has 1.18. Its three levels halve 28 pixels twice, ours first folds 2×2 of them."""
    from diffusers import UNet2DModel

    width = 8 if tiny else 16
    return UNet2DModel(
        sample_size=28, in_channels=1, out_channels=1, block_out_channels=(width, 2 * width, 4 * width),
        norm_num_groups=8, down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )  # fmt: skip


def diffusers_64(tiny: bool) -> nn.Module:
    """52.8 million parameters; ours has 53.2."""
    if tiny:
        return diffusers_unet(3, 16, (8, 8), 1, norm_num_groups=8)
    return diffusers_unet(3, 64, (128, 256, 256, 384), 2, attention_head_dim=64)


def diffusers_dit(tiny: bool) -> nn.Module:
    """138 million parameters, of which every block embeds time and label anew; ours has 130."""
    from diffusers import DiTTransformer2DModel

    heads, depth, side = (2, 1, 16) if tiny else (12, 12, 64)
    return DiTTransformer2DModel(
        num_attention_heads=heads, attention_head_dim=64 if not tiny else 8, in_channels=3, out_channels=3,
        num_layers=depth, sample_size=side, patch_size=4, num_embeds_ada_norm=1,
    )  # fmt: skip


MODELS = {
    "mnist_ddpm": Model(
        ("experiment=mnist_ddpm", "data.mirrors=[]"), ("net.width=8",), diffusers_mnist, 2e6,
    ),
    "unet_53m": Model(
        (*UNET_64,), ("data.size=[16,16]", "net.width=8", "net.channel_mults=[1,1]", "net.num_blocks=1",
        "net.attention_levels=[1]"), diffusers_64, 200e6, peak_share=0.25,
    ),
    "dit_130m": Model(
        (*DIT_64,), ("data.size=[16,16]", "net.width=16", "net.depth=1", "net.num_heads=2"), diffusers_dit,
        150e6, peak_share=0.4, channels_last=False,
    ),
}  # fmt: skip


class Ours:
    """Training steps of a config: loss, backward pass, clipping, optimizer and average, on images on the device.

    Args:
        cfg: the config.
        n: images of a batch.
        device: where.
        channels_last: True for this layout in the network.
    """

    def __init__(self, cfg: DictConfig, n: int, device: torch.device, channels_last: bool):
        self.module = build_initial_module(cfg).to(device).train()
        self.net: nn.Module = self.module.denoiser.net
        use_channels_last(channels_last, self.module, device, half=True)
        self.parameters = list(self.module.trained_parameters())
        self.optimizer = self.module.make_optimizer(self.parameters)
        self.x = images(n, cfg.data.channels, cfg.data.size, device)  # the denoiser changes the layout
        classes = self.module.denoiser.condition.num_classes
        self.cond = torch.arange(n, device=device) % classes if classes else None
        self.draws, self.count = generator("speed"), 0

    def loss(self) -> Tensor:
        denoiser = self.module.denoiser
        t = self.module.time_sampler(len(self.x), self.draws, denoiser.schedule)
        return self.module.loss(denoiser, self.x, t, torch.randn_like(self.x), self.cond).mean()

    def average(self) -> None:
        self.count += 1
        self.module.ema.update(self.module.denoiser, self.count)


class Diffusers:
    """The same with a net of diffusers, its schedule and its average, predicting the noise."""

    def __init__(self, net: nn.Module, n: int, size: tuple[int, int, int], device: torch.device, channels_last: bool):
        from diffusers import DDPMScheduler
        from diffusers.training_utils import EMAModel

        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.net = net.to(device).to(memory_format=self.layout).train()  # type: ignore[call-overload]
        self.parameters = list(self.net.parameters())
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(self.parameters, lr=3e-4, fused=True)
        self.schedule = DDPMScheduler(1000)
        self.ema = EMAModel(self.parameters, decay=0.995, use_ema_warmup=True, foreach=True)
        self.x = images(n, size[0], size[1:], device).contiguous(memory_format=self.layout)
        # A transformer of diffusers is always told a class.
        labels = torch.zeros(n, dtype=torch.int64, device=device)
        self.more = {"class_labels": labels} if "Transformer" in type(net).__name__ else {}

    def loss(self) -> Tensor:
        noise, t = torch.randn_like(self.x), torch.randint(1000, (len(self.x),), device=self.x.device)
        x_t = self.schedule.add_noise(self.x, noise, t)
        return nn.functional.mse_loss(self.net(x_t, t, **self.more).sample.float(), noise)

    def average(self) -> None:
        self.ema.step(self.parameters)


def images(n: int, channels: int, size: Any, device: torch.device) -> Tensor:
    """Noise in [-1, 1]: the speed of a GPU depends on the values, and is highest for zeros."""
    return (torch.randn(n, channels, *size, generator=generator("images")) / 2).clamp(-1, 1).to(device)


def take_step(side: Any, autocast: torch.dtype | None) -> None:
    """A training step of either, without waiting for the device."""
    with torch.autocast(side.x.device.type, autocast, enabled=autocast is not None):
        loss = side.loss()
    loss.backward()
    nn.utils.clip_grad_norm_(side.parameters, CLIP)
    side.optimizer.step()
    side.optimizer.zero_grad()
    side.average()


def parameters(side: Any) -> int:
    return sum(p.numel() for p in side.net.parameters())


def power_of_two(n: float, most: int) -> int:
    """The largest that is at most n and at most `most`; 1 at least."""
    return max(1, min(most, 2 ** int(math.log2(max(1.0, n)))))

"""The other contenders of `make race`, each as a careful user of that library would train it.

It runs in an environment of its own and imports nothing of this project:

    python peers.py NAME --images IMAGES.npy --out FOLDER --seconds 360    # the race
    python peers.py NAME --images IMAGES.npy --out FOLDER --steps 12       # the speed alone
"""

import argparse
import importlib.machinery
import json
import resource
import sys
import time
import types
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


class DenoisingDiffusionPytorch:
    """denoising-diffusion-pytorch with the defaults of its GaussianDiffusion and Trainer."""

    race, speed = 32, 40  # widths; 2.6 and 4.0 million parameters

    def __init__(self, width: int, channels: int, size: int):
        self.stand_in_for_torchvision()
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet
        from ema_pytorch import EMA

        unet = Unet(dim=width, dim_mults=(1, 2, 4), channels=channels)
        self.net = GaussianDiffusion(
            unet, image_size=size, timesteps=1000, sampling_timesteps=50, ddim_sampling_eta=ETA
        )
        # Its Trainer's decay, but updated at each step and warmed up from the first on: these runs are short.
        self.average = EMA(self.net, beta=0.995, update_every=1, update_after_step=0)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=3e-4, betas=(0.9, 0.99))

    def stand_in_for_torchvision(self) -> None:
        """What it imports of torchvision is for folders of pictures, and used neither in training nor in sampling."""
        for name in ("torchvision", "torchvision.transforms", "torchvision.utils"):
            module = sys.modules[name] = types.ModuleType(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vision = sys.modules["torchvision"]
        vision.transforms, vision.utils = sys.modules["torchvision.transforms"], sys.modules["torchvision.utils"]

    def loss(self, x: Tensor) -> Tensor:
        return self.net((x + 1) / 2)

    def after_step(self) -> None:
        self.average.update()

    def sample(self, n: int) -> Tensor:
        return self.average.ema_model.sample(batch_size=n)


class Diffusers:
    """diffusers' UNet2DModel trained to predict the noise, as its tutorial on unconditional images does."""

    race, speed = 32, 32  # widths; 3.9 million parameters

    def __init__(self, width: int, channels: int, size: int):
        from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
        from diffusers.training_utils import EMAModel

        self.net = UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(width, 2 * width, 4 * width),
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        )
        self.shape = (channels, size, size)
        self.schedule = DDPMScheduler(1000)
        self.sampler = DDIMScheduler.from_config(self.schedule.config)
        parameters = list(self.net.parameters())
        self.average = EMAModel(parameters, decay=0.995, use_ema_warmup=True, inv_gamma=1.0, power=2 / 3)
        self.optimizer = torch.optim.AdamW(parameters, lr=3e-4)

    def loss(self, x: Tensor) -> Tensor:
        noise, t = torch.randn_like(x), torch.randint(1000, (len(x),))
        eps = self.net(self.schedule.add_noise(x, noise, t), t).sample
        return nn.functional.mse_loss(eps.float(), noise)

    def after_step(self) -> None:
        self.average.step(self.net.parameters())

    def sample(self, n: int) -> Tensor:
        self.average.store(self.net.parameters())
        self.average.copy_to(self.net.parameters())
        x = torch.randn(n, *self.shape)
        self.sampler.set_timesteps(50)
        for t in self.sampler.timesteps:
            x = self.sampler.step(self.net(x, t).sample.float(), t, x, eta=ETA).prev_sample
        self.average.restore(self.net.parameters())
        return (x + 1) / 2


ETA = 0.0
PEERS = {"denoising-diffusion-pytorch": DenoisingDiffusionPytorch, "diffusers": Diffusers}


def batches(images: Tensor, size: int) -> Iterator[Tensor]:
    """Endlessly, each image once an epoch, from memory."""
    while True:
        for rows in torch.randperm(len(images)).split(size)[:-1]:
            yield images[rows].float() / 127.5 - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=PEERS)
    parser.add_argument("--images", type=Path, required=True, help=".npy of uint8 (N, C, H, H)")
    parser.add_argument("--out", type=Path, required=True, help="folder for result.json and samples.npy")
    parser.add_argument("--seconds", type=float, help="of training, counted from --began")
    parser.add_argument("--began", type=float, default=time.time(), help="when this process was started")
    parser.add_argument("--steps", type=int, help="measure the speed of so many steps instead")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--precision", choices=["bf16", "32"], default="bf16")
    parser.add_argument("--samples", type=int, default=1000)
    args = parser.parse_args()

    torch.manual_seed(0)
    kind = PEERS[args.name]
    images = torch.from_numpy(np.load(args.images))
    peer = kind(kind.speed if args.steps else kind.race, *images.shape[1:3])
    autocast = torch.autocast("cpu", torch.bfloat16) if args.precision == "bf16" else nullcontext()
    steps, ends = 0, []
    for x in batches(images, args.batch_size):
        with autocast:
            loss = peer.loss(x)
        peer.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(peer.net.parameters(), 1.0)
        peer.optimizer.step()
        peer.after_step()
        steps += 1
        ends.append(time.time())
        if steps == args.steps or (args.seconds and ends[-1] - args.began >= args.seconds):
            break
    result = {
        "parameters": sum(p.numel() for p in peer.net.parameters()),
        "first_step_s": ends[0] - args.began,
        "images": steps * args.batch_size,
        "step_s": float(np.median(np.diff(ends[2:]))),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,  # of the training alone
    }
    if args.seconds:
        begin = time.perf_counter()
        with autocast, torch.no_grad():
            x = torch.cat([peer.sample(min(250, args.samples - i)) for i in range(0, args.samples, 250)])
        result["samples_per_s"] = args.samples / (time.perf_counter() - begin)
        np.save(args.out / "samples.npy", x.float().clamp(0, 1).numpy())
    (args.out / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()

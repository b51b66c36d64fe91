"""Features that are learned from the data themselves: ImageNet's mean nothing on digits.

A small network is trained once on the run's own data, and kept with the features of all of them in the cache, under a
hash of the data and of how it was trained.
"""

from abc import abstractmethod
from hashlib import sha256
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.metrics.features.base import Features, Real, Reference
from src.utils.console import log, progress_bar
from src.utils.errors import UserError
from src.utils.files import cached
from src.utils.hardware import precision_for
from src.utils.paths import check_writable
from src.utils.ranges import PositiveFloat, PositiveInt

NUMBER = (float, type(None))
KEPT = {"weights": dict, "scale": float, "train": Tensor, "test": Tensor, "accuracy": NUMBER, "error": NUMBER}
LEAST_STEPS = 300
LARGEST = 64  # pixels: larger images are seen at this size
# The scale of what is learned is arbitrary. With this total variance of the real data, a Fréchet distance is in percent
# of it, and a kernel of (x y / D + 1)^3 sees both its linear and its cubic part.
VARIANCE = 100.0


class Trunk(nn.Sequential):
    """Convolutions that halve the image until it is at most 8 pixels wide, then `width` numbers (N, width)."""

    def __init__(self, channels: int, size: tuple[int, int], width: int, dropout: float):
        layers: list[nn.Module] = []
        height, length = (min(s, LARGEST) for s in size)
        self.sizes = [(height, length)]
        while len(self.sizes) < 3 or max(self.sizes[-1]) > 8:
            after = 32 if len(self.sizes) == 1 else 64
            stride = 2 if max(self.sizes[-1]) > 8 or len(self.sizes) == 2 else 1
            layers += [nn.Conv2d(channels, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            channels, (height, length) = after, (-(-height // stride), -(-length // stride))
            self.sizes.append((height, length))
        self.inner = (channels, height, length)
        super().__init__(*layers, nn.Flatten(), nn.Dropout(dropout), nn.Linear(prod(self.inner), width))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(seen(x))


def seen(x: Tensor) -> Tensor:
    """Images (N, C, H, W) at the size that the networks see."""
    size = [min(s, LARGEST) for s in x.shape[2:]]
    return x if list(x.shape[2:]) == size else F.interpolate(x, size, mode="area")


class TrainedFeatures(Features):
    """What the two kinds share: they are trained, judged, scaled and kept in the same way.

    Args:
        reference: the data that they are learned from.
        cache: folder that keeps them.
        width: D.
        epochs, batch_size, lr: of the training.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        reference: Reference,
        cache: str,
        width: PositiveInt = 64,
        epochs: PositiveInt = 5,
        batch_size: PositiveInt = 128,
        lr: PositiveFloat = 4e-3,
    ):
        if reference.kind != "images":
            raise UserError(f"features are of images, and this run is one of {reference.kind}")
        self.width, self.epochs, self.batch_size, self.lr = width, epochs, batch_size, lr
        self.channels, self.size = reference.data.channels, tuple(reference.data.size)
        self.classes = reference.data.num_classes
        (x, y), (x_test, y_test) = read(reference.train), read(reference.test)
        with torch.random.fork_rng(devices=[]):  # a run that trains draws from the global generator too
            torch.manual_seed(0)
            self.net = self.build()
        self.key = digest(f"{epochs} {batch_size} {lr} {self.net}", x, y, x_test, y_test)
        file = Path(cache) / f"{self.kind}_{self.key}.pt"
        if not file.exists():
            check_writable("features.cache", cache)
        kept = cached(file, lambda: self.learn(x, y, x_test, y_test), KEPT)
        self.net.load_state_dict(kept["weights"])
        self.net.eval()
        self.scale, self.train, self.test, self.accuracy = (kept[k] for k in ("scale", "train", "test", "accuracy"))
        self.name = f"{self.kind} of the run's own data, {self.width} features{self.praise(kept)} ({self.key[:6]})"

    @abstractmethod
    def build(self) -> nn.Module:
        """The network, untrained: its `trunk` makes the features."""

    @abstractmethod
    def loss(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Of images x (B, C, H, W) in [0, 1] with labels y (B,)."""

    @abstractmethod
    def judge(self, x: Tensor, y: Tensor | None) -> dict[str, float]:
        """How good it is on test data, {"accuracy": ..., "error": ...} of which it may say either."""

    def praise(self, kept: dict[str, Any]) -> str:
        """How good it is, in words."""
        if kept["accuracy"] is not None:
            return f", {kept['accuracy']:.1%} of the test data right"
        return f", {kept['error']:.1%} of the variance of the test data lost"

    def learn(self, x: Tensor, y: Tensor | None, x_test: Tensor, y_test: Tensor | None) -> dict[str, Any]:
        """Train; what the cache keeps of it."""
        log.info(f"training a {self.kind} of {len(x):,} images to compare images by; it is kept")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.fit(x, y)
        self.net.eval()
        train, test = (torch.cat([self.raw(part / 255) for part in each.split(500)]) for each in (x, x_test))
        scale = (VARIANCE / test.double().var(0).sum().clamp(min=1e-12)).sqrt().item()
        kept: dict[str, Any] = {"accuracy": None, "error": None} | self.judge(x_test, y_test)
        kept |= {"weights": self.net.state_dict(), "scale": scale, "train": scale * train, "test": scale * test}
        return kept

    def fit(self, x: Tensor, y: Tensor | None) -> None:
        """AdamW with one cycle of the rate, on images moved by up to a fourteenth of their size, a batch at a time."""
        batch = min(self.batch_size, len(x))
        per_epoch, reach = len(x) // batch, min(x.shape[2:]) // 14
        epochs = max(self.epochs, -(-LEAST_STEPS // per_epoch))  # few data are seen more often
        optimizer = torch.optim.AdamW(self.net.parameters(), self.lr, weight_decay=0.01)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=epochs * per_epoch)
        with progress_bar(epochs * per_epoch, self.kind, leave=False, delay=2) as bar, torch.enable_grad():
            for _ in range(epochs):
                for i in torch.randperm(len(x))[: per_epoch * batch].split(batch):
                    shift = torch.randint(-reach, reach + 1, (2,)).tolist()
                    with torch.autocast("cpu", torch.bfloat16, enabled=precision_for("cpu").startswith("bf16")):
                        loss = self.loss(torch.roll(x[i], shift, (2, 3)) / 255, None if y is None else y[i])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    rate.step()
                    bar.update()

    @torch.no_grad()
    def raw(self, x: Tensor) -> Tensor:
        return self.net.trunk(x)  # type: ignore[operator]

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[1:] != (self.channels, *self.size):
            there, here = (" x ".join(map(str, s)) for s in (x.shape[1:], (self.channels, *self.size)))
            raise UserError(f"the samples are {there}, but the data of this run {here}")
        return self.scale * torch.cat([self.raw(part.clamp(0, 1)) for part in x.float().split(500)])


class ClassifierFeatures(TrainedFeatures):
    """What a small classifier sees, before its last ReLU."""

    kind = "classifier"

    def build(self) -> nn.Module:
        trunk = Trunk(self.channels, self.size, self.width, dropout=0.2)  # type: ignore[arg-type]
        return nn.ModuleDict({"trunk": trunk, "head": nn.Sequential(nn.ReLU(), nn.Linear(self.width, self.classes))})

    def loss(self, x: Tensor, y: Tensor | None) -> Tensor:
        assert y is not None
        return F.cross_entropy(self.net.head(self.net.trunk(x)), y)  # type: ignore[operator]

    @torch.no_grad()
    def judge(self, x: Tensor, y: Tensor | None) -> dict[str, float]:
        assert y is not None
        right = [
            self.net.head(self.raw(part / 255)).argmax(1) == label  # type: ignore[operator]
            for part, label in zip(x.split(500), y.split(500), strict=True)
        ]
        return {"accuracy": torch.cat(right).float().mean().item()}

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        return self.net.head(features / self.scale)  # type: ignore[operator]


class AutoencoderFeatures(TrainedFeatures):
    """Bottleneck of a small autoencoder, for data without labels."""

    kind = "autoencoder"

    def build(self) -> nn.Module:
        trunk = Trunk(self.channels, self.size, self.width, dropout=0.0)  # type: ignore[arg-type]
        layers: list[nn.Module] = [nn.Linear(self.width, prod(trunk.inner)), nn.Unflatten(1, trunk.inner)]
        channels = trunk.inner[0]
        for small, large in pairwise(reversed(trunk.sizes)):
            after = self.channels if large is trunk.sizes[0] else 32
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
            if small == large:
                layers += [nn.Conv2d(channels, after, 3, 1, 1)]
            else:  # twice as large, and cut where the size is odd
                layers += [nn.ConvTranspose2d(channels, after, 4, 2, 1), nn.Upsample(large)]
            channels = after
        layers += [nn.Sigmoid()]
        return nn.ModuleDict({"trunk": trunk, "head": nn.Sequential(*layers)})

    def loss(self, x: Tensor, y: Tensor | None) -> Tensor:
        return F.mse_loss(self.net.head(self.net.trunk(x)), seen(x))  # type: ignore[operator]

    @torch.no_grad()
    def judge(self, x: Tensor, y: Tensor | None) -> dict[str, float]:
        lost = [self.loss(part / 255, None) * len(part) for part in x.split(500)]
        variance = seen(x / 255).var(0).mean()
        return {"error": (torch.stack(lost).sum() / len(x) / variance).item()}


def trained(
    reference: Reference,
    cache: str,
    width: PositiveInt = 64,
    epochs: PositiveInt = 5,
    batch_size: PositiveInt = 128,
    lr: PositiveFloat = 4e-3,
) -> TrainedFeatures:
    """Features of a classifier if the data have labels, else of an autoencoder."""
    kind = ClassifierFeatures if reference.data.num_classes > 1 else AutoencoderFeatures
    return kind(reference, cache, width, epochs, batch_size, lr)


def read(real: Real) -> tuple[Tensor, Tensor | None]:
    """All images (N, C, H, W) as uint8, and their labels (N,)."""
    parts = list(real.batches())
    x = torch.cat([(part["x"] * 255).round().to(torch.uint8) for part in parts])
    return x, torch.cat([part["label"] for part in parts]) if "label" in parts[0] else None


def digest(recipe: str, *tensors: Tensor | None) -> str:
    """A hash of the data and of how the features are made."""
    h = sha256(recipe.encode())
    for tensor in tensors:
        if tensor is not None:
            h.update(str(tuple(tensor.shape)).encode())
            h.update(tensor.contiguous().numpy().data)
    return h.hexdigest()[:12]

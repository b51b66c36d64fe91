"""Features trained on the data of the run, for data such as digits on which ImageNet features are meaningless.

A small network is trained once on the data of the run and cached with the features of all data, under a hash of the
data and of the training settings.
"""

from abc import abstractmethod
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.metrics.features.base import Features, RealData, ReferenceData
from src.utils.console import log, progress_bar
from src.utils.errors import UserError
from src.utils.files import cached
from src.utils.hardware import default_precision
from src.utils.paths import check_writable
from src.utils.ranges import PositiveFloat, PositiveInt

OPTIONAL_FLOAT = (float, type(None))
CACHED = {
    "weights": dict,
    "scale": float,
    "train": Tensor,
    "test": Tensor,
    "accuracy": OPTIONAL_FLOAT,
    "error": OPTIONAL_FLOAT,
}
MIN_STEPS = 300
MAX_SIZE = 64  # pixels: larger images are downsampled
# The scale of trained features is arbitrary. With this total variance of the real data, a Fréchet distance is in
# percent of it, and both the linear and the cubic term of the kernel (x y / D + 1)^3 contribute.
TOTAL_VARIANCE = 100.0


class Trunk(nn.Sequential):
    """Strided convolutions down to at most 8 pixels, then a linear layer to features (N, width)."""

    def __init__(self, channels: int, size: tuple[int, int], width: int, dropout: float):
        layers: list[nn.Module] = []
        height, length = (min(s, MAX_SIZE) for s in size)
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
        return super().forward(resize(x))


def resize(x: Tensor, size: list[int] | None = None) -> Tensor:
    """Resize images (N, C, H, W) to the input size of the networks: by default to at most `MAX_SIZE`."""
    size = size or [min(s, MAX_SIZE) for s in x.shape[2:]]
    return x if list(x.shape[2:]) == size else F.interpolate(x, size, mode="area")


class TrainedFeatures(Features):
    """Base class of the trained features: training, evaluation, scaling and caching.

    Args:
        reference: the data that they are trained on.
        cache: cache folder.
        width: D, the number of features.
        epochs, batch_size, lr: training settings.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        reference: ReferenceData,
        cache: str,
        width: PositiveInt = 64,
        epochs: PositiveInt = 5,
        batch_size: PositiveInt = 128,
        lr: PositiveFloat = 4e-3,
    ):
        if reference.kind != "images":
            raise UserError(
                f"features must be of images, got data of kind {reference.kind}; use metrics without features"
            )
        self.width, self.epochs, self.batch_size, self.lr = width, epochs, batch_size, lr
        self.channels, self.size = reference.data.channels, tuple(reference.data.size)
        self.classes = reference.data.num_classes
        (x, y), (x_test, y_test) = load_images(reference.train), load_images(reference.test)
        with torch.random.fork_rng(devices=[]):  # a training run draws from the global generator too
            torch.manual_seed(0)
            self.net = self.build()
        self.key = content_hash(f"{epochs} {batch_size} {lr} {self.net}", x, y, x_test, y_test)
        file = Path(cache) / f"{self.kind}_{self.key}.pt"
        if not file.exists():
            check_writable("features.cache", cache)
        saved = cached(file, lambda: self.train_network(x, y, x_test, y_test), CACHED)
        self.net.load_state_dict(saved["weights"])
        self.net.eval()
        self.scale, self.train, self.test, self.accuracy = (saved[k] for k in ("scale", "train", "test", "accuracy"))
        self.name = (
            f"{self.kind} trained on the data of the run, {self.width} features{self.describe(saved)} ({self.key[:6]})"
        )

    @abstractmethod
    def build(self) -> nn.Module:
        """Build the untrained network, whose `trunk` computes the features."""

    @abstractmethod
    def loss(self, x: Tensor, y: Tensor | None) -> Tensor:
        """The training loss on images x (B, C, H, W) in [0, 1] with labels y (B,)."""

    @abstractmethod
    def evaluate(self, x: Tensor, y: Tensor | None) -> dict[str, float]:
        """Evaluate the network on test data: {"accuracy": ...} or {"error": ...}."""

    def describe(self, saved: dict[str, Any]) -> str:
        """Describe the evaluation in words."""
        if saved["accuracy"] is not None:
            return f", {saved['accuracy']:.1%} accuracy on test data"
        return f", {saved['error']:.1%} of the variance of the test data unexplained"

    def train_network(self, x: Tensor, y: Tensor | None, x_test: Tensor, y_test: Tensor | None) -> dict[str, Any]:
        """Train the network; return what is cached."""
        log.info(f"training a {self.kind} on {len(x):,} images as feature space of the metrics; it is cached")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.fit(x, y)
        self.net.eval()
        train, test = (torch.cat([self.forward(part / 255) for part in each.split(500)]) for each in (x, x_test))
        scale = (TOTAL_VARIANCE / test.double().var(0).sum().clamp(min=1e-12)).sqrt().item()
        saved: dict[str, Any] = {"accuracy": None, "error": None} | self.evaluate(x_test, y_test)
        saved |= {"weights": self.net.state_dict(), "scale": scale, "train": scale * train, "test": scale * test}
        return saved

    def fit(self, x: Tensor, y: Tensor | None) -> None:
        """Train with AdamW and a one-cycle learning rate, on images shifted by up to 1 / 14 of their size."""
        batch = min(self.batch_size, len(x))
        per_epoch, reach = len(x) // batch, min(x.shape[2:]) // 14
        epochs = max(self.epochs, -(-MIN_STEPS // per_epoch))  # more epochs for few data
        optimizer = torch.optim.AdamW(self.net.parameters(), self.lr, weight_decay=0.01)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=epochs * per_epoch)
        with progress_bar(epochs * per_epoch, self.kind, leave=False, delay=2) as bar, torch.enable_grad():
            for _ in range(epochs):
                for i in torch.randperm(len(x))[: per_epoch * batch].split(batch):
                    shift = torch.randint(-reach, reach + 1, (2,)).tolist()
                    with torch.autocast("cpu", torch.bfloat16, enabled=default_precision("cpu").startswith("bf16")):
                        loss = self.loss(torch.roll(x[i], shift, (2, 3)) / 255, None if y is None else y[i])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    rate.step()
                    bar.update()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.net.trunk(x)  # type: ignore[operator]

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[1:] != (self.channels, *self.size):
            there, here = (" x ".join(map(str, s)) for s in (x.shape[1:], (self.channels, *self.size)))
            raise UserError(f"samples must have shape {here}, like the data of this run, got {there}")
        return self.scale * torch.cat([self.forward(part.clamp(0, 1)) for part in x.float().split(500)])


def load_images(real: RealData) -> tuple[Tensor, Tensor | None]:
    """Load all images (N, C, H, W) as uint8, and their labels (N,) if there are any."""
    parts = list(real.batches())
    x = torch.cat([(part["x"] * 255).round().to(torch.uint8) for part in parts])
    return x, torch.cat([part["label"] for part in parts]) if "label" in parts[0] else None


def content_hash(recipe: str, *tensors: Tensor | None) -> str:
    """Hash the data and the settings of the features."""
    h = sha256(recipe.encode())
    for tensor in tensors:
        if tensor is not None:
            h.update(str(tuple(tensor.shape)).encode())
            h.update(tensor.contiguous().numpy().data)
    return h.hexdigest()[:12]

"""Features of an autoencoder trained on the data of the run."""

from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.metrics.features.trained import TrainedFeatures, Trunk, resize


class Autoencoder(TrainedFeatures):
    """Features of a small autoencoder, its code; for data without labels."""

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
            else:  # upsample by 2, cropped for odd sizes
                layers += [nn.ConvTranspose2d(channels, after, 4, 2, 1), nn.Upsample(large)]
            channels = after
        layers += [nn.Sigmoid()]
        return nn.ModuleDict({"trunk": trunk, "head": nn.Sequential(*layers)})

    def loss(self, x: Tensor, y: Tensor | None) -> Tensor:
        return F.mse_loss(self.net.head(self.net.trunk(x)), resize(x))  # type: ignore[operator]

    @torch.no_grad()
    def evaluate(self, x: Tensor, y: Tensor | None) -> dict[str, float]:
        lost = [self.loss(part / 255, None) * len(part) for part in x.split(500)]
        variance = resize(x / 255).var(0).mean()
        return {"error": (torch.stack(lost).sum() / len(x) / variance).item()}

"""Features of a classifier trained on the data of the run."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.metrics.features.trained import TrainedFeatures, Trunk


class Classifier(TrainedFeatures):
    """Features of a small classifier of the labels: its activations before the last ReLU."""

    kind = "classifier"

    def build(self) -> nn.Module:
        trunk = Trunk(self.channels, self.size, self.width, dropout=0.2)  # type: ignore[arg-type]
        return nn.ModuleDict({"trunk": trunk, "head": nn.Sequential(nn.ReLU(), nn.Linear(self.width, self.classes))})

    def loss(self, x: Tensor, y: Tensor | None) -> Tensor:
        assert y is not None
        return F.cross_entropy(self.net.head(self.net.trunk(x)), y)  # type: ignore[operator]

    @torch.no_grad()
    def evaluate(self, x: Tensor, y: Tensor | None) -> dict[str, float]:
        assert y is not None
        right = [
            self.net.head(self.forward(part / 255)).argmax(1) == label  # type: ignore[operator]
            for part, label in zip(x.split(500), y.split(500), strict=True)
        ]
        return {"accuracy": torch.cat(right).float().mean().item()}

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        return self.net.head(features / self.scale)  # type: ignore[operator]

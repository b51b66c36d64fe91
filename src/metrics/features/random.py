"""Features of a network with random weights: nothing is trained, and no labels are used."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.metrics.features.base import BATCH_SIZE, Features, RealData, ReferenceData
from src.metrics.features.trained import MAX_SIZE, TOTAL_VARIANCE, resize
from src.utils.errors import UserError
from src.utils.ranges import PositiveInt
from src.utils.seeding import generator

MAX_FIT = 10_000  # training images that determine the principal components
MIN_SIZE = 8  # pixels: smaller images are enlarged, for three levels
CELLS = 4  # each level is averaged over 4 by 4 cells
WHITE = 1e-3  # added to the variances before whitening, relative to the largest


class RandomNetwork(Features):
    """Principal components of the activations of a network with random weights, averaged over 4 by 4 cells.

    They are independent of what a classifier was trained to see, such as brightness and style.

    Args:
        reference: the real data.
        net: makes the network from (channels, size); it returns a list of levels (B, width, h, w).
        width: D, the number of features.
        white: True to scale all components to the same variance.
    """

    def __init__(
        self, reference: ReferenceData, net: Callable[..., nn.Module], width: PositiveInt = 64, white: bool = True
    ):
        if reference.kind != "images":
            raise UserError(
                f"features must be of images, got data of kind {reference.kind}; use metrics without features"
            )
        self.size = [min(max(s, MIN_SIZE), MAX_SIZE) for s in reference.data.size]
        self.net = net(reference.data.channels, self.size).eval()
        rows = torch.randperm(len(reference.train), generator=generator("random features"))[:MAX_FIT]
        x = torch.cat([self.activations(reference.train[part]["x"]) for part in rows.sort().values.split(500)])
        self.mean = x.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov(x.T.double()))
        self.width = min(width, len(values))
        values, vectors = values.flip(0)[: self.width].clamp(min=0), vectors.flip(1)[:, : self.width]
        scale = (values + WHITE * values[0]).clamp(min=1e-12).rsqrt() if white else torch.ones_like(values)
        total = (values * scale.square()).sum().clamp(min=1e-12)
        self.directions = (vectors * scale * (TOTAL_VARIANCE / total).sqrt()).float()
        self.name = f"network with random weights, {self.width} principal components"
        self.real_train, self.test = reference.train, self.of(reference.test)

    @cached_property
    def train(self) -> Tensor:  # type: ignore[override]
        """(M, D), computed on first use: most measures need a part of them."""
        return self.of(self.real_train)

    def train_rows(self, rows: Tensor) -> Tensor:
        return torch.cat([self(self.real_train[part]["x"]) for part in rows.split(BATCH_SIZE)])

    def of(self, real: RealData) -> Tensor:
        return torch.cat([self(batch["x"]) for batch in real.batches()])

    @torch.no_grad()
    def activations(self, x: Tensor) -> Tensor:
        """The activations (N, K) of images (N, C, H, W), averaged over cells."""
        levels = self.net(resize(x.clamp(0, 1), self.size))
        cells: list[Any] = [tuple(min(CELLS, s) for s in level.shape[2:]) for level in levels]
        pooled = [F.adaptive_avg_pool2d(level.relu(), cell) for level, cell in zip(levels, cells, strict=True)]
        return torch.cat([p.flatten(1) for p in pooled], 1)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([(self.activations(part) - self.mean) @ self.directions for part in x.float().split(500)])

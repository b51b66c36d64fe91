"""The real data that samples are compared with, and the space in which images are: what a network sees in them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from src.data.base import Batch, BatchDataset, DataModule
from src.utils.seeding import generator
from src.utils.units import Kind

BATCH = 500  # real samples read at a time


class Real:
    """Real data in their own units, read a part at a time.

    Args:
        data: the data set.
        to_units: from the units of the model to the data's own.
        most: how many to take, a fixed choice; None for all.
    """

    def __init__(self, data: BatchDataset, to_units: Callable[[Tensor], Tensor], most: int | None = None):
        self.data, self.to_units = data, to_units
        n = len(data)
        self.indices = torch.arange(n)
        if most is not None and most < n:
            self.indices = torch.randperm(n, generator=generator("real data"))[:most].sort().values

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, rows: Tensor | slice) -> Batch:
        """{"x": (B, C, *S) float32, images in [0, 1]; "label": (B,) int64 where there are labels}."""
        batch = self.data[0, self.indices[rows]]
        return {**batch, "x": self.to_units(batch["x"])}

    def batches(self, size: int = BATCH) -> Iterator[Batch]:
        """All of them in order."""
        for first in range(0, len(self), size):
            yield self[first : first + size]

    def some(self, n: int, *keys: int | str) -> Batch:
        """n of them, drawn by the keys without replacement; all where there are fewer."""
        return self[torch.randperm(len(self), generator=generator("some", *keys))[:n]]


class Reference:
    """The data of a run, and the features of them.

    Args:
        data: set up.
        make_features: makes them, of this.
    """

    def __init__(self, data: DataModule, make_features: "Callable[[Reference], Features]"):
        self.data, self.make_features = data, make_features

    @property
    def kind(self) -> Kind:
        """What one sample is."""
        return self.data.kind

    @cached_property
    def train(self) -> Real:
        """The data that the model learned from, at most 60,000 of them."""
        return Real(self.data.train_set, self.data.to_units, 60_000)

    @cached_property
    def test(self) -> Real:
        """Data that it has not seen, at most 10,000 of them."""
        return Real(self.data.test_set, self.data.to_units, 10_000)

    @property
    def width(self) -> int:
        """How many features there are; known without making them, where they have to be learned first."""
        make = self.make_features
        known = getattr(make, "keywords", {}).get("width") or getattr(getattr(make, "func", make), "width", None)
        return known or self.features.width

    @cached_property
    def features(self) -> "Features":
        """The space in which images are compared; made when it is first asked for."""
        return self.make_features(self)


class Features(ABC):
    """Numbers that stand for an image.

    Attributes:
        name: what they are, in a line.
        width: D, how many there are.
        train, test: (M, D) float32 those of the real data, in their order.
        accuracy: share of the test data that `logits` gets right; None without labels.
    """

    name: str
    width: int
    train: Tensor
    test: Tensor
    accuracy: float | None = None

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Features (N, D) float32 of images x (N, C, H, W) in [0, 1]."""

    def logits(self, features: Tensor) -> Tensor | None:
        """Of the classes, (N, K), from features (N, D); None where the network knows none."""
        return None

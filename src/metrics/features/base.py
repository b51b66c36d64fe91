"""The real data that samples are compared with, and the feature space in which images are compared."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from src.data.base import DataModule
from src.data.samples import Batch, BatchDataset
from src.statistics.pixels import GroupedMeans, ValueRange
from src.utils.seeding import generator
from src.utils.units import Kind

BATCH_SIZE = 500  # real data read at a time
MAX_TRAIN, MAX_TEST = 60_000, 10_000  # real data that samples are compared with


class RealData:
    """Real data in their own units, read in batches.

    Args:
        data: the data set.
        to_units: converts from the units of the model to those of the data.
        max_samples: size of a fixed random subset; None for all data.
    """

    def __init__(self, data: BatchDataset, to_units: Callable[[Tensor], Tensor], max_samples: int | None = None):
        self.data, self.to_units = data, to_units
        n = len(data)
        self.indices = torch.arange(n)
        if max_samples is not None and max_samples < n:
            self.indices = torch.randperm(n, generator=generator("real data"))[:max_samples].sort().values

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, rows: Tensor | slice) -> Batch:
        """Return {"x": (B, C, *S) float32, images in [0, 1]; "label": (B,) int64 if the data have labels}."""
        batch = self.data[0, self.indices[rows]]
        return {**batch, "x": self.to_units(batch["x"])}

    def batches(self, size: int = BATCH_SIZE) -> Iterator[Batch]:
        """Iterate over all data in order."""
        for first in range(0, len(self), size):
            yield self[first : first + size]

    def some(self, n: int, *keys: int | str) -> Batch:
        """Draw n data without replacement, or all if there are fewer; a function of the keys."""
        return self[torch.randperm(len(self), generator=generator("some", *keys))[:n]]


class ReferenceData:
    """The training and test data of a run, and their features.

    Args:
        data: the data module, set up.
        make_features: builds the features from this object.
    """

    def __init__(self, data: DataModule, make_features: "MakeFeatures"):
        self.data, self.make_features = data, make_features
        self.spaces: list[tuple[Any, Features]] = []  # further ones, by how they are made

    @property
    def kind(self) -> Kind:
        """The kind of the data."""
        return self.data.kind

    @cached_property
    def train(self) -> RealData:
        """The training data of the model, at most 60,000."""
        return RealData(self.data.train_set, self.data.to_units, MAX_TRAIN)

    @cached_property
    def test(self) -> RealData:
        """The held-out test data, at most 10,000."""
        return RealData(self.data.test_set, self.data.to_units, MAX_TEST)

    @cached_property
    def value_range(self) -> ValueRange:
        """The range of each channel in the units of the data: the known one, or that of the test data."""
        units, channels = self.data.units, self.data.channels
        if units.low is None or units.high is None:
            return ValueRange.of(batch["x"] for batch in self.test.batches())
        return ValueRange(*(torch.tensor(end, dtype=torch.float64).expand(channels) for end in (units.low, units.high)))

    @cached_property
    def pixels(self) -> GroupedMeans:
        """The summaries of the elements of the test data."""
        return GroupedMeans.of(self.value_range.to_unit(batch["x"]) for batch in self.test.batches())

    @property
    def width(self) -> int:
        """The number of features, known without training them first."""
        return known_width(self.make_features) or self.features.width

    @cached_property
    def features(self) -> "Features":
        """The feature space in which images are compared, built on first use."""
        return self.make_features(self)

    def in_space(self, make: "MakeFeatures | None") -> "Features":
        """The features that `make` builds, once for all that ask for the same; for None those of the evaluation."""
        if make is None or self.is_default_space(make):
            return self.features
        call = call_of(make)
        for other, built in self.spaces:
            if other == call:
                return built
        self.spaces.append((call, make(self)))
        return self.spaces[-1][1]

    def is_default_space(self, make: "MakeFeatures") -> bool:
        """True if `make` builds the feature space of the evaluation."""
        return bool(call_of(make) == call_of(self.make_features))


def call_of(make: Any) -> Any:
    """What a function with bound arguments calls, such that equal calls are equal; all else as it is."""
    if not isinstance(make, partial):
        return make
    return make.func, [call_of(a) for a in make.args], {name: call_of(a) for name, a in make.keywords.items()}


def known_width(make: "MakeFeatures") -> int | None:
    """The number of features that `make` builds, if it says so before it is called."""
    return getattr(make, "keywords", {}).get("width") or getattr(getattr(make, "func", make), "width", None)


class Features(ABC):
    """A feature extractor for images.

    Attributes:
        name: description in one line.
        width: D, the number of features.
        train, test: (M, D) float32 features of the training and test data, in their order.
        accuracy: fraction of the test data that `logits` classifies correctly; None without labels.
        metric_names: titles of the Fréchet distance, the kernel distance and the classifier score.
    """

    name: str
    width: int
    train: Tensor
    test: Tensor
    accuracy: float | None = None
    metric_names = ("Fréchet distance", "kernel distance", "classifier score (Inception-style)")

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Compute the features (N, D) float32 of images x (N, C, H, W) in [0, 1]."""

    def train_rows(self, rows: Tensor) -> Tensor:
        """Return the features (K, D) of some training data."""
        return self.train[rows]

    def logits(self, features: Tensor) -> Tensor | None:
        """Class logits (N, K) of features (N, D); None if the extractor is not a classifier."""
        return None


MakeFeatures = Callable[[ReferenceData], Features]

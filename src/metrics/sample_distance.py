"""Metrics of samples alone, which `callbacks.quality` logs during training."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from math import isfinite
from typing import Any, cast

import torch
from torch import Tensor
from torchmetrics import Metric as StreamingMetric

from src.data.base import DataModule
from src.metrics.base import EvalContext, Metric
from src.metrics.features.base import Features, ReferenceData
from src.metrics.pixels import LOGGED, Pixels, compare_pixels, grouped_means
from src.metrics.sliced_wasserstein import seeded_directions
from src.statistics.frechet import frechet_metric
from src.statistics.sliced_wasserstein import SlicedWassersteinDistance
from src.utils.seeding import generator


class SampleMetric(ABC):
    """Values of samples alone, compared with the test data of a run. A new one is one method, the call.

    Args:
        data: the data module, set up.
        features: makes the feature space of images.
    """

    def __init__(self, data: DataModule, features: Callable[[ReferenceData], Features]):
        self.reference = ReferenceData(data, features)

    @abstractmethod
    def __call__(self, x: Tensor) -> dict[str, float]:
        """Compute the values, by name, of samples x (N, C, *S) in the units of the data; the most important first."""

    @property
    def min_samples(self) -> int:
        """The fewest samples that it is defined for."""
        return 2

    def prepare(self) -> None:  # noqa: B027
        """Do what takes long, such as training the features; nothing by default."""

    def real_samples(self, n: int) -> Tensor:
        """The training data (n, C, *S) whose values are the baseline."""
        order = torch.randperm(len(self.reference.train), generator=generator("floor"))[:n]
        return self.reference.train[order]["x"]


class SampleDistance(SampleMetric):
    """The distance of the samples to the test data, and biases of their pixels, or elements.

    The distance is the Fréchet distance in features of images, else sliced Wasserstein.
    """

    @property
    def images(self) -> bool:
        return self.reference.kind == "images"

    @property
    def min_samples(self) -> int:
        """The smallest number of samples; for images one more than the features, for a covariance of full rank."""
        return self.reference.width + 1 if self.images else 2

    def prepare(self) -> None:
        self.real  # noqa: B018 - computed on first use

    @cached_property
    def real(self) -> Tensor:
        """The features of the test data, or the data themselves."""
        if self.images:
            return self.reference.features.test
        return torch.cat([batch["x"] for batch in self.reference.test.batches()])

    def __call__(self, x: Tensor) -> dict[str, float]:
        metric: StreamingMetric
        if self.images:
            metric, fake = frechet_metric(self.reference.features.width), self.reference.features(x)
        else:
            metric, fake = SlicedWassersteinDistance(seeded_directions(x[0].numel())), x
        metric.sync_on_compute = False  # the other processes wait
        metric.update(self.real, real=True)
        metric.update(fake, real=False)
        found = {"frechet_distance" if self.images else "sliced_wasserstein": float(metric.compute())}
        if self.reference.kind in Pixels.kinds:
            pixels = compare_pixels(grouped_means(x, self.reference).means, self.reference)
            found |= {name: pixels[name] for name in LOGGED if isfinite(pixels[name])}
        return found


class EvaluationMetric(SampleMetric):
    """The values of a metric of src.evaluate that needs nothing but samples, such as `distances`.

    Args:
        data, features: see `SampleMetric`.
        metric: one of :mod:`src.metrics`.
    """

    def __init__(self, data: DataModule, features: Callable[[ReferenceData], Features], metric: Metric):
        super().__init__(data, features)
        self.metric = metric

    @property
    def min_samples(self) -> int:
        return self.metric.min_samples

    def __call__(self, x: Tensor) -> dict[str, float]:
        nothing = cast(Any, None)  # neither pipeline nor run: such a metric does not look at them
        section = self.metric(EvalContext(x, None, self.reference, nothing, nothing))
        return {name: value.value for name, value in section.values.items()}

"""Distances between samples and data in a feature space."""

from dataclasses import replace
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor
from torchmetrics.image.inception import InceptionScore

from src.metrics.base import EvalContext, Metric, MetricValue, ReportSection
from src.metrics.features.base import Features, MakeFeatures, known_width
from src.statistics.frechet import MAX_BOOTSTRAP, Identity, Moments, frechet_interval, frechet_metric
from src.statistics.kernel_distance import kernel_distance
from src.statistics.neighbors import PRDC, prdc
from src.statistics.significance import wilson_interval
from src.utils.ranges import PositiveInt
from src.utils.seeding import derive_seed, generator


class Distances(Metric):
    """Fréchet and kernel distance to the test data, classifier score, precision, recall, density and coverage.

    The Fréchet distance compares means and covariances, the kernel distance all moments up to the third. Precision and
    density measure how realistic single samples are, recall and coverage how much of the data they cover. With
    Inception features, the first two are FID and KID and the classifier score is the Inception score. The real-data
    baselines are computed from as many training data.

    Args:
        resamples: bootstrap resamples for the interval of the Fréchet distance.
        k: nearest neighbors for precision, recall, density and coverage.
        max_samples: samples of each kind that these four are computed on.
        features: makes the feature space of this metric from the real data; by default it is that of the evaluation.
        suffix: what follows the keys of the values in metrics.json and TensorBoard, so that the metric can be computed
            in several spaces.

    Source: Heusel et al. 2017, arXiv:1706.08500; Bińkowski et al. 2018, arXiv:1801.01401; Salimans et al. 2016,
        arXiv:1606.03498; Kynkäänniemi et al. 2019, arXiv:1904.06991; Naeem et al. 2020, arXiv:2002.09797.
    """

    kinds = ("images",)

    def __init__(
        self,
        resamples: PositiveInt = 200,
        k: PositiveInt = 5,
        max_samples: Annotated[int, Ge(2)] = 5000,
        features: MakeFeatures | None = None,
        suffix: str | None = None,
    ):
        self.resamples, self.k, self.max_samples = resamples, k, max_samples
        self.make_features, self.suffix = features, suffix or ""

    def why_not_applicable(self, context: EvalContext) -> str | None:
        reason = super().why_not_applicable(context)
        if reason is None and self.make_features and context.reference.is_default_space(self.make_features):
            return "its features are those of features=, in which metrics=distances measures"
        return reason

    def min_samples_for(self, context: EvalContext) -> int:
        """Return the number of samples that a covariance of full rank and k neighbors need."""
        own = self.make_features and known_width(self.make_features)
        return max(own or context.reference.width, self.k) + 1

    def __call__(self, context: EvalContext) -> ReportSection:
        features, n = context.reference.in_space(self.make_features), len(context.x)
        test, fake = features.test, context.fake_features if self.make_features is None else features(context.x)
        chosen = torch.randperm(len(context.train), generator=generator("floor", context.seed))[:n]
        train = features.train_rows(chosen)
        section = ReportSection(f"Distances to the data{self.in_words}")
        values: dict[str, MetricValue] = {}
        moments = Moments.of(test)
        low, high = frechet_interval(moments, fake, self.resamples, generator("bootstrap"))
        distance, real = frechet_distance(test, fake), frechet_distance(test, train)
        frechet_name, kernel_name, score_name = features.metric_names
        values["frechet_distance"] = MetricValue(frechet_name, distance, low, high, real, "lower")
        (mean, error), (real, _) = (kernel_distance(test, x) for x in (fake, train))
        interval = (mean - 1.96 * error, mean + 1.96 * error)
        values["kernel_distance"] = MetricValue(kernel_name, mean, *interval, real, "lower")
        logits, real_logits = features.logits(fake), features.logits(train)
        if logits is not None and real_logits is not None:
            (mean, error), (real, _) = (classifier_score(x, context.seed) for x in (logits, real_logits))
            interval = (mean - 1.96 * error, mean + 1.96 * error)
            values["classifier_score"] = MetricValue(score_name, mean, *interval, real, "higher")
        values |= self.prdc_values(test, fake, train)
        section.values = {f"{key}{self.suffix}": self.named(value) for key, value in values.items()}
        section.notes = self.notes(features, n, len(train))
        return section

    @property
    def in_words(self) -> str:
        """The suffix, as a part of titles."""
        return f" ({self.suffix.strip('_').replace('_', ' ')})" if self.suffix else ""

    def named(self, value: MetricValue) -> MetricValue:
        return replace(value, name=f"{value.name}{self.in_words}")

    def prdc_values(self, test: Tensor, fake: Tensor, train: Tensor) -> dict[str, MetricValue]:
        """Precision, recall, density and coverage, of as many real data as samples."""
        n = min(self.max_samples, len(fake), len(test))
        test, fake = test[:n], fake[:n]
        found, baseline = prdc(test, fake, self.k), prdc(test, train[:n], self.k)
        values = {}
        for name in PRDC._fields:
            each, real = getattr(found, name), getattr(baseline, name).mean().item()
            mean, margin = each.mean().item(), 1.96 * each.std().item() / len(each) ** 0.5
            low, high = mean - margin, mean + margin
            if name != "density":  # a fraction
                low, high = wilson_interval(each.sum().item(), len(each))
            values[name] = MetricValue(name, mean, low, high, real, "higher")
        return values

    def notes(self, features: Features, n: int, n_train: int) -> list[str]:
        """Explain the numbers, and warn about small numbers of samples."""
        width, n_test = features.width, len(features.test)
        text = [
            f"Features: {features.name}. Distances are to {n_test:,} test data. The real-data baseline is "
            f"computed from {n_train:,} training data: the value of a perfect model. Intervals are 95 % intervals. "
            "Distances decrease with the number of samples: compare only values with the same n and features."
        ]
        n_prdc = min(self.max_samples, n, n_test)
        if n_prdc < n:
            text.append(f"Precision, recall, density and coverage use {n_prdc:,} of the {n:,} samples.")
        if n > MAX_BOOTSTRAP:
            text.append(
                f"The interval of the Fréchet distance uses {MAX_BOOTSTRAP:,} of the {n:,} samples and is scaled to n."
            )
        if n < 10 * width:
            text.append(f"WARNING: {n:,} samples are few for {width} features; use n={10 * width} or more.")
        if n_train < n:
            text.append(
                f"WARNING: the real-data baseline uses all {n_train:,} training data, fewer than the {n:,} samples."
            )
        if n_test < 10 * width:
            text.append(f"WARNING: {n_test:,} test data are few for {width} features.")
        return text


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """The Fréchet distance of torchmetrics between features (M, D) and (N, D)."""
    metric = frechet_metric(real.shape[1])
    metric.set_dtype(torch.float64)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    return metric.compute().item()


def classifier_score(logits: Tensor, seed: int) -> tuple[float, float]:
    r"""The score :math:`\exp E\, KL(p(y | x) \Vert p(y))` of logits (N, K), by torchmetrics, and its standard error."""
    splits = min(10, len(logits))
    metric = InceptionScore(feature=Identity(logits.shape[1]), splits=splits, sync_on_compute=False)
    metric.update(logits)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("classifier score", seed))
        mean, std = metric.compute()
    return mean.item(), std.item() / splits**0.5

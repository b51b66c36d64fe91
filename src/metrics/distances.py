"""How far the samples are from the data, as sets of features."""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor
from torchmetrics.image.inception import InceptionScore

from src.metrics.base import Measure, Section, Subject, Value
from src.statistics.frechet import MOST, Given, Moments, frechet_interval, frechet_metric
from src.statistics.kernel_distance import kernel_distance
from src.statistics.neighbors import Manifolds, manifolds
from src.statistics.significance import share_interval
from src.utils.ranges import PositiveInt
from src.utils.seeding import derive_seed, generator


class Distances(Measure):
    """Distances to the test data, beside those of the same number of training data.

    The Fréchet distance compares means and covariances, the kernel distance all moments up to the third; precision and
    density say how real single samples are, recall and coverage how much of the data they reach.

    Args:
        resamples: of the bootstrap, for the interval of the Fréchet distance.
        neighbours: k, for precision, recall, density and coverage.
        most: samples of each kind that these are computed on.

    Source: Heusel et al. 2017, arXiv:1706.08500; Bińkowski et al. 2018, arXiv:1801.01401; Salimans et al. 2016,
        arXiv:1606.03498; Kynkäänniemi et al. 2019, arXiv:1904.06991; Naeem et al. 2020, arXiv:2002.09797.
    """

    kinds = ("images",)

    def __init__(self, resamples: PositiveInt = 200, neighbours: PositiveInt = 5, most: Annotated[int, Ge(2)] = 5000):
        self.resamples, self.neighbours, self.most = resamples, neighbours, most

    def least_for(self, subject: Subject) -> int:
        """As many as the covariance of the features needs."""
        return max(subject.reference.width, self.neighbours) + 1

    def __call__(self, subject: Subject) -> Section:
        features, n = subject.features, len(subject.x)
        data, fake = features.test, subject.fake
        chosen = torch.randperm(len(features.train), generator=generator("floor", subject.seed))[:n]
        other = features.train[chosen]
        section = Section("Distances to the data")
        values, moments = section.values, Moments.of(data)
        low, high = frechet_interval(moments, fake, self.resamples)
        values["frechet"] = Value("Fréchet distance", frechet(data, fake), low, high, frechet(data, other), "lower")
        (mean, error), (floor, _) = (kernel_distance(data, x) for x in (fake, other))
        values["kernel"] = Value("kernel distance", mean, mean - 1.96 * error, mean + 1.96 * error, floor, "lower")
        logits, real_logits = features.logits(fake), features.logits(other)
        if logits is not None and real_logits is not None:
            (mean, error), (floor, _) = (score(x, subject.seed) for x in (logits, real_logits))
            interval = (mean - 1.96 * error, mean + 1.96 * error)
            values["classifier_score"] = Value("classifier score (Inception-style)", mean, *interval, floor, "higher")
        values |= self.manifold_values(data, fake, other)
        section.notes = self.notes(subject, n, len(other))
        return section

    def manifold_values(self, data: Tensor, fake: Tensor, other: Tensor) -> dict[str, Value]:
        """Precision, recall, density and coverage, with as many real data as samples."""
        n = min(self.most, len(fake), len(data))
        data, fake = data[:n], fake[:n]
        found, floors = manifolds(data, fake, self.neighbours), manifolds(data, other[:n], self.neighbours)
        values = {}
        for name in Manifolds._fields:
            each, floor = getattr(found, name), getattr(floors, name).mean().item()
            mean, margin = each.mean().item(), 1.96 * each.std().item() / len(each) ** 0.5
            low, high = mean - margin, mean + margin
            if name != "density":  # a share
                low, high = share_interval(each.sum().item(), len(each))
            values[name] = Value(name, mean, low, high, floor, "higher")
        return values

    def notes(self, subject: Subject, n: int, n_floor: int) -> list[str]:
        width = subject.features.width
        text = [
            f"Features: {subject.features.name}. Distances are to {len(subject.features.test):,} test data. "
            f"Beside each value stands that of real data, {n_floor:,} training data, which a perfect model would have. "
            "Intervals hold 95 %. A distance falls with the number of samples: compare only figures of the same n and "
            "features."
        ]
        n_manifolds = min(self.most, n, len(subject.features.test))
        if n_manifolds < n:
            text.append(f"Precision, recall, density and coverage are those of {n_manifolds:,} of the {n:,} samples.")
        if n > MOST:
            text.append(
                f"The interval of the Fréchet distance is that of {MOST:,} of the {n:,} samples, scaled to all."
            )
        if n < 10 * width:
            text.append(f"WARNING: {n:,} samples are few for {width} features; use n={10 * width} or more.")
        if n_floor < n:
            text.append(
                f"WARNING: the values of real data are of all {n_floor:,} training data, fewer than the {n:,} samples."
            )
        if len(subject.features.test) < 10 * width:
            text.append(f"WARNING: {len(subject.features.test):,} test data are few for {width} features.")
        return text


def frechet(real: Tensor, fake: Tensor) -> float:
    """torchmetrics' Fréchet distance of features (M, D) and (N, D)."""
    metric = frechet_metric(real.shape[1])
    metric.set_dtype(torch.float64)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    return metric.compute().item()


def score(logits: Tensor, seed: int) -> tuple[float, float]:
    r"""torchmetrics' :math:`\exp E\, KL(p(y | x) \Vert p(y))` of logits (N, K), and its standard error."""
    splits = min(10, len(logits))
    metric = InceptionScore(feature=Given(logits.shape[1]), splits=splits)
    metric.update(logits)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("classifier score", seed))
        mean, std = metric.compute()
    return mean.item(), std.item() / splits**0.5

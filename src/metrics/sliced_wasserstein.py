"""The sliced Wasserstein distance between samples and data."""

from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from src.metrics.base import EvalContext, Metric, MetricValue, Picture, ReportSection
from src.plots.metrics import labeled_clouds
from src.statistics.sliced_wasserstein import random_directions, squared_distances
from src.utils.ranges import PositiveInt
from src.utils.seeding import generator

MAX_ELEMENTS = 2**23  # projected numbers that are compared at a time


class SlicedWasserstein(Metric):
    """The sliced Wasserstein distance between samples and test data; baseline: as many training data.

    Args:
        projections: number of random directions.
        resamples: bootstrap resamples for the 95 % interval.
        max_samples: samples for the bootstrap; with more, the interval is scaled to their number.
        baselines: sets of training data whose root mean square distance is the baseline: that of one set varies as much
            as that of the samples.
    """

    kinds = ("points", "signals", "fields", "volumes")
    min_samples = 2

    def __init__(
        self, projections: PositiveInt = 128, resamples: PositiveInt = 200,
        max_samples: Annotated[int, Ge(2)] = 10_000, baselines: PositiveInt = 8,
    ):  # fmt: skip
        self.projections, self.baselines = projections, baselines
        self.resamples, self.max_samples = resamples, max_samples

    def __call__(self, context: EvalContext) -> ReportSection:
        x, n = context.x, len(context.x)
        test, directions = context.test[:], seeded_directions(x[0].numel(), self.projections, context.seed)
        fake, real = (v.flatten(1).float() for v in (x, test["x"]))
        distance, real_distance = distance_along(fake, real, directions), self.baseline(context, real, directions)
        below, above = bootstrap(fake[: self.max_samples] @ directions, real @ directions, self.resamples)
        scale = (min(n, self.max_samples) / n) ** 0.5
        low, high = max(0.0, distance + scale * below), distance + scale * above
        value = MetricValue("sliced Wasserstein distance", distance, low, high, real_distance, better="lower")
        section = ReportSection("Distance to the data", {"sliced_wasserstein": value}, notes=[HOW_TO_READ])
        section.interpretation = interpret_distance(value)
        if len(context.train) < n:
            section.notes.append(
                f"The real-data baseline is computed from {len(context.train):,} training data, all there are."
            )
        if self.max_samples < n:
            section.notes.append(f"The interval uses {self.max_samples:,} of the {n:,} samples and is scaled to n.")
        if context.kind == "points":
            shown = {"test data": (test["x"], test.get("label")), "samples": (x, context.label)}
            section.pictures["points"] = Picture(labeled_clouds(shown), "As many test data as samples")
        return section

    def baseline(self, context: EvalContext, real: Tensor, directions: Tensor) -> float:
        """The root mean square distance of sets of as many training data as samples, by the seed."""
        squares = []
        for i in range(self.baselines if len(context.train) > len(context.x) else 1):
            train = context.train.some(len(context.x), "sliced", context.seed, *([i] if i else []))
            squares.append(distance_along(train["x"].flatten(1).float(), real, directions) ** 2)
        return (sum(squares) / len(squares)) ** 0.5


HOW_TO_READ = (
    "The root mean square distance, along random directions, by which points have to be moved to turn the samples into "
    "the test data, in units of the data. Two finite sets always differ: the real-data baseline is the distance of as "
    "many training data from the test data, the root mean square over several draws of them. The interval covers other "
    "samples of the same model."
)


def seeded_directions(dim: int, projections: int = 128, seed: int = 0) -> Float[Tensor, "dim projections"]:
    """Draw unit vectors as a function of the seed and the number of dimensions."""
    return random_directions(dim, projections, generator(seed, "directions", dim))


def distance_along(x: Tensor, y: Tensor, directions: Tensor) -> float:
    """The sliced Wasserstein distance of x (N, D) and y (M, D) along the columns of (D, P), some at a time."""
    parts = directions.split(max(1, MAX_ELEMENTS // (len(x) + len(y))), 1)
    return torch.cat([squared_distances(x @ part, y @ part) for part in parts]).mean().sqrt().item()


def bootstrap(x: Tensor, real: Tensor, resamples: int) -> tuple[float, float]:
    """The ends of the 95 % bootstrap interval of the distance of x (N, P) from real (M, P), relative to that distance.

    A resample has fewer distinct samples and a larger distance: the percentiles are centered to remove this bias.
    """
    g, n, target = generator("bootstrap"), len(x), BinnedQuantiles.of(real, len(x))
    ordered, order = x.T.contiguous().sort(1)
    values, places = ordered.numpy().ravel(), order.numpy()
    again = []
    for _ in range(resamples):
        counts = torch.randint(n, (n,), generator=g).bincount(minlength=n).numpy()
        # The sorted samples, each repeated as often as it was drawn: sorting again would take ten times as long.
        resample = torch.from_numpy(values.repeat(counts[places].ravel())).view(ordered.shape)
        again.append(target.distance_ordered(resample.T))
    found = torch.stack(again)
    low, high = (found - found.mean()).quantile(torch.tensor([0.025, 0.975], dtype=found.dtype)).tolist()
    return low, high


class BinnedQuantiles(NamedTuple):
    r"""Quantile functions, averaged over N equal bins of [0, 1]: the distance of N numbers then takes one sort.

    .. math:: \int_0^1 (F^{-1} - G^{-1})^2 = \frac{1}{N} \sum_i (x_{(i)} - m_i)^2 + v, \text{ with the mean } m_i
              \text{ of } G^{-1} \text{ in bin } i \text{ and the mean } v \text{ of its variances within the bins}

    Attributes:
        mean: m, (N, P).
        within: v, (P,).
    """

    mean: Tensor
    within: Tensor

    @classmethod
    def of(cls, real: Tensor, n: int) -> "BinnedQuantiles":
        """Compute them from the columns of real (M, P). In units of 1 / (N M), steps and bins begin at integers."""
        m = len(real)
        ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
        widths = torch.diff(ends, prepend=ends.new_zeros(1)).to(real)[:, None] / (n * m)
        y, part = real.sort(0).values[(ends - 1) // n], (ends - 1) // m
        mean = real.new_zeros(n, real.shape[1]).index_add_(0, part, n * widths * y)
        return cls(mean, (widths * (y - mean[part]).square()).sum(0))

    def distance(self, x: Tensor) -> Tensor:
        """The sliced Wasserstein distance of x (N, P), a number ()."""
        return self.distance_ordered(x.sort(0).values)

    def distance_ordered(self, x: Tensor) -> Tensor:
        """The same for x with sorted columns."""
        return ((x - self.mean).square().mean(0) + self.within).mean().sqrt()


def interpret_distance(value: MetricValue) -> str:
    """Compare the distance of the samples with the real-data baseline."""
    assert value.low is not None and value.real_baseline is not None
    if value.low <= value.real_baseline:
        return "By this distance the samples cannot be distinguished from as many real data."
    if not value.real_baseline:
        return "The samples differ from the test data; training and test data are the same, with distance 0."
    ratio = value.value / value.real_baseline
    return f"The distance of the samples from the test data is {ratio:.2g} times that of as many training data."

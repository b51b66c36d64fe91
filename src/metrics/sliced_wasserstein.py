"""How far the samples as a whole are from the data."""

from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor

from src.metrics.base import Measure, Picture, Section, Subject, Value
from src.plots.metrics import clouds
from src.statistics.sliced_wasserstein import SlicedWasserstein, squared_distances
from src.utils.ranges import PositiveInt
from src.utils.seeding import generator

NUMBERS = 2**23  # of projections that are compared at a time


class Sliced(Measure):
    """Sliced Wasserstein distance between samples and test data, beside that of the same number of training data.

    Args:
        projections: directions to look along.
        resamples: of the bootstrap, for the 95 % interval.
        most: samples that the bootstrap draws from; where there are more, the interval is scaled to their number.
    """

    kinds = ("points", "signals", "fields", "volumes")
    least_n = 2

    def __init__(
        self, projections: PositiveInt = 128, resamples: PositiveInt = 200, most: Annotated[int, Ge(2)] = 10_000
    ):
        self.projections, self.resamples, self.most = projections, resamples, most

    def __call__(self, subject: Subject) -> Section:
        x, n = subject.x, len(subject.x)
        real, data = subject.test[:], subject.train.some(n, "sliced", subject.seed)
        directions = SlicedWasserstein(self.projections, subject.seed).directions(x[0].numel())
        flat, real_flat = (v.flatten(1).float() for v in (x, real["x"]))
        distance, floor = (distance_along(v, real_flat, directions) for v in (flat, data["x"].flatten(1).float()))
        below, above = bootstrap(flat[: self.most] @ directions, real_flat @ directions, self.resamples)
        scale = (min(n, self.most) / n) ** 0.5
        low, high = max(0.0, distance + scale * below), distance + scale * above
        value = Value("sliced Wasserstein distance", distance, low, high, floor, better="lower")
        section = Section(
            "Distance from the data", {"sliced_wasserstein": value}, notes=[HOW_TO_READ], verdict=verdict(value)
        )
        if len(data["x"]) < n:
            section.notes.append(
                f"The value of real data is that of {len(data['x']):,} training data, for there are no more."
            )
        if self.most < n:
            section.notes.append(f"The interval is that of {self.most:,} of the {n:,} samples, scaled to all of them.")
        if subject.kind == "points":
            shown = {"test data": (real["x"], real.get("label")), "samples": (x, subject.label)}
            section.pictures["points"] = Picture(clouds(shown), "As many points of the data and of the samples")
        return section


HOW_TO_READ = (
    "It is how far points have to be moved, as the root of the mean square along random directions, to turn the "
    "samples into the test data, in units of the data. Two finite sets are never the same: the value of "
    "real data is the distance of as many training data from the test data. The interval is that of other samples of "
    "the same model."
)


def distance_along(x: Tensor, y: Tensor, directions: Tensor) -> float:
    """The sliced Wasserstein distance of x (N, D) and y (M, D) along the columns of (D, P), some at a time."""
    parts = directions.split(max(1, NUMBERS // (len(x) + len(y))), 1)
    return torch.cat([squared_distances(x @ part, y @ part) for part in parts]).mean().sqrt().item()


def bootstrap(x: Tensor, real: Tensor, resamples: int) -> tuple[float, float]:
    """How far the 95 % interval over other samples x (N, P) of the same source, from real ones (M, P), reaches below
    and above the distance of x.

    A resample holds fewer different samples, which are farther from the data: the percentiles are moved back by that.
    """
    g, n, target = generator("bootstrap"), len(x), Cells.of(real, len(x))
    ordered, order = x.T.contiguous().sort(1)
    values, places = ordered.numpy().ravel(), order.numpy()
    again = []
    for _ in range(resamples):
        counts = torch.randint(n, (n,), generator=g).bincount(minlength=n).numpy()
        # In order as the samples are, each as often as it was drawn: sorting anew would take ten times as long.
        resample = torch.from_numpy(values.repeat(counts[places].ravel())).view(ordered.shape)
        again.append(target.distance_ordered(resample.T))
    found = torch.stack(again)
    low, high = (found - found.mean()).quantile(torch.tensor([0.025, 0.975], dtype=found.dtype)).tolist()
    return low, high


class Cells(NamedTuple):
    r"""Quantile functions in N equal parts of [0, 1], from which the distance of N numbers takes one sorting.

    .. math:: \int_0^1 (F^{-1} - G^{-1})^2 = \frac{1}{N} \sum_i (x_{(i)} - m_i)^2 + v, \text{ for the mean } m_i
              \text{ of } G^{-1} \text{ in part } i \text{ and the mean } v \text{ of its variances within the parts}

    mean: (N, P).
    within: v, (P,).
    """

    mean: Tensor
    within: Tensor

    @classmethod
    def of(cls, real: Tensor, n: int) -> "Cells":
        """Of the columns of (M, P). In units of 1 / (N M) the steps and the parts begin and end at integers."""
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
        """The same of x whose columns are in order."""
        return ((x - self.mean).square().mean(0) + self.within).mean().sqrt()


def verdict(value: Value) -> str:
    """Whether the samples can be told from data."""
    assert value.low is not None and value.floor is not None
    if value.low <= value.floor:
        return "By this distance the samples cannot be told from as many data."
    if not value.floor:
        return "The samples are apart from the test data, and the training data are the test data: their distance is 0."
    return f"The samples are {value.value / value.floor:.2g} times as far from the test data as training data are."

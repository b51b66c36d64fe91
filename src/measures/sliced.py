"""How far the samples as a whole are from the data."""

from typing import NamedTuple

import torch
from torch import Tensor

from src.measures.base import Measure, Picture, Section, Subject, Value
from src.metrics.sliced_wasserstein import SlicedWasserstein, squared_distances
from src.plots.measures import clouds
from src.utils.errors import UserError
from src.utils.seeding import generator


class Sliced(Measure):
    """The sliced Wasserstein distance of the samples from the test data, beside that of as many training data.

    Args:
        projections: directions to look along.
        resamples: of the bootstrap, for the 95 % interval.
    """

    kinds = ("points", "signals")

    def __init__(self, projections: int = 128, resamples: int = 200):
        self.projections, self.resamples = projections, resamples

    def __call__(self, subject: Subject) -> Section:
        x, n = subject.x, len(subject.x)
        if n < 2:
            raise UserError("n=1 sample says nothing of a distribution; use n=1000, for example")
        real, data = subject.test[:], subject.train.some(n, "sliced", subject.seed)
        directions = SlicedWasserstein(self.projections, subject.seed).directions(x[0].numel())
        along, real_along, data_along = (v.flatten(1).float() @ directions for v in (x, real["x"], data["x"]))
        distance, floor = (squared_distances(v, real_along).mean().sqrt().item() for v in (along, data_along))
        low, high = bootstrap(along, real_along, self.resamples)
        value = Value("sliced Wasserstein distance", distance, low, high, floor, better="lower")
        section = Section("Distance from the data", {"sliced_wasserstein": value}, notes=[verdict(value), HOW_TO_READ])
        if len(data["x"]) < n:
            section.notes.append(f"The floor is that of {len(data['x']):,} training data, for there are no more.")
        if subject.kind == "points":
            shown = {"test data": (real["x"], real.get("label")), "samples": (x, subject.label)}
            section.pictures["points"] = Picture(clouds(shown), "As many points of the data and of the samples")
        return section


HOW_TO_READ = (
    "It is how far points have to be moved, as the root of the mean square along random directions, to turn the "
    "samples into the test data, in units of the data. Two finite sets are never the same: the floor is the distance "
    "of as many training data. The interval is that of other samples of the same model."
)


def bootstrap(x: Tensor, real: Tensor, resamples: int) -> tuple[float, float]:
    """The 95 % interval of the distance over other samples x (N, P) of the same source, from real ones (M, P).

    A resample holds fewer different samples, which are farther from the data: the percentiles are moved back by that.
    """
    g, n, target = generator("bootstrap"), len(x), Cells.of(real, len(x))
    again = torch.stack([target.distance(x[torch.randint(n, (n,), generator=g)]) for _ in range(resamples)])
    again = again - again.mean() + target.distance(x)
    return max(0.0, again.quantile(0.025).item()), again.quantile(0.975).item()


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
        return ((x.sort(0).values - self.mean).square().mean(0) + self.within).mean().sqrt()


def verdict(value: Value) -> str:
    """Whether the samples can be told from data."""
    assert value.low is not None and value.floor is not None
    if value.low <= value.floor:
        return "By this distance the samples cannot be told from as many data."
    return f"The samples are {value.value / value.floor:.2g} times as far from the test data as training data are."

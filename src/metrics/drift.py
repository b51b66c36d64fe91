"""Drift: tests of whether new samples are like the data of a run, as a whole, by class and by condition."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from src.data.samples import Batch
from src.metrics.base import MetricValue
from src.metrics.drift_measures import Sample, groups_of, measures_of
from src.metrics.features.base import RealData, ReferenceData
from src.statistics.two_sample import energy_test, holm
from src.utils.ranges import OpenFraction, PositiveInt
from src.utils.seeding import generator


@dataclass(frozen=True)
class DriftTest:
    """One comparison of new samples with the data of a run.

    Attributes:
        measure: what is compared, such as features.
        group: of which samples, such as a class; empty for all.
        n: number of new samples.
        value: the energy distance to the training data, its interval, and that of as many held-out data.
        limit: 95 % of the distances of equal data are below it.
        p: the p-value, the larger of those against the training data and against the held-out data.
        adjusted: the p-value adjusted for the number of tests.
    """

    measure: str
    group: str
    n: int
    value: MetricValue
    limit: float
    p: float
    adjusted: float = 1.0

    @property
    def name(self) -> str:
        return f"{self.measure} ({self.group})" if self.group else self.measure


class Drift:
    """Tests of whether new samples are like the data of a run.

    Each is a permutation test on the energy distance between vectors: the features of the run, statistics of the
    elements, the elements themselves, classes and conditions. New samples differ only if they differ from the training
    data and from the held-out data, since features that were trained on the former see the two slightly differently.
    The p-values are adjusted for their number, so that one or more of them are below `false_alarm_rate` with at most
    that probability if nothing has changed.

    Args:
        false_alarm_rate: that probability.
        max_samples: most new samples, and most training and held-out data, that are compared.
        min_group: fewest samples of a class or a condition that are compared.
        permutations: of each test, at least; more where the rate and the number of tests need them.

    Source: Székely, Rizzo 2013, 10.1016/j.jspi.2013.03.018; Holm 1979, Scandinavian Journal of Statistics 6.
    """

    def __init__(
        self, false_alarm_rate: OpenFraction = 0.01, max_samples: Annotated[int, Ge(2)] = 1000,
        min_group: Annotated[int, Ge(2)] = 10, permutations: PositiveInt = 999,
    ):  # fmt: skip
        self.false_alarm_rate, self.max_samples, self.min_group = false_alarm_rate, max_samples, min_group
        self.permutations = permutations

    def __call__(self, new: Batch, reference: ReferenceData, seed: int = 0) -> list[DriftTest]:
        """Compare new samples {"x": (N, C, *S), ...} in the units of the data with the data of a run."""
        batches = [RealData(WholeBatch(new), lambda x: x).some(self.max_samples, "drift", seed)]
        batches += [part.some(self.max_samples, "drift") for part in (reference.train, reference.test)]
        fields = [name for name in new if all(name in batch for batch in batches)]
        batches = [{name: batch[name] for name in fields} for batch in batches]
        measures = measures_of(reference, batches)
        main = next(iter(measures.values()))
        groups = {name: rows for name, rows in groups_of(reference, batches) if min(map(len, rows)) >= self.min_group}
        asked = [(name, "", sample) for name, sample in measures.items()]
        asked += [(next(iter(measures)), group, main.of(rows)) for group, rows in groups.items()]
        count = self.permutations_for(len(asked))
        return adjusted([compare_vectors(*one, count, seed) for one in asked])

    def permutations_for(self, tests: int) -> int:
        """The permutations of each of some tests, with which the least p-value is well below the rate."""
        return max(self.permutations, ceil(2 * (tests + 2) / self.false_alarm_rate))

    def differs(self, test: DriftTest) -> bool:
        """True if a test found a difference."""
        return test.adjusted <= self.false_alarm_rate


def adjusted(tests: Sequence[DriftTest]) -> list[DriftTest]:
    """The tests with their p-values adjusted for their number."""
    return [replace(test, adjusted=p) for test, p in zip(tests, holm([test.p for test in tests]), strict=True)]


class WholeBatch:
    """A data set of a single batch.

    Args:
        batch: {"x": (N, C, *S), ...}.
    """

    def __init__(self, batch: Batch):
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch["x"])

    def __getitem__(self, where: tuple[int, Tensor]) -> Batch:
        return {name: value[where[1]] for name, value in self.batch.items()}


def compare_vectors(measure: str, group: str, sample: Sample, permutations: int, seed: int) -> DriftTest:
    """Test new vectors against those of the training data and of the held-out data."""
    draws = generator("permutations", seed)
    train, test = (energy_test(sample.new, real, permutations, draws) for real in (sample.train, sample.test))
    floor = energy_test(sample.test[: len(sample.new)], sample.train, 1, draws, resamples=2).distance
    value = MetricValue(measure, train.distance, train.low, train.high, floor, "lower")
    return DriftTest(measure, group, len(sample.new), value, train.limit, max(train.p, test.p))

"""Metrics: a metric takes an :class:`EvalContext` and returns a section of the report."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import isfinite
from typing import Any, NamedTuple, get_args

import torch
from PIL import Image
from torch import Tensor

from src.data.base import DataModule
from src.diffusion.conditions import Cond, class_of
from src.metrics.features.base import Batch, Features, RealData, ReferenceData
from src.runs.run import Run
from src.samplers.pipeline import Cost, Pipeline
from src.statistics.significance import Better
from src.utils.units import Kind

NOT_AVAILABLE = "not available"


@dataclass
class EvalContext:
    """The samples of a run, and everything that they are compared with.

    Attributes:
        x: (N, C, *S) float32 samples in the units of the data: images in [0, 1], all else unscaled.
        cond: (N, ...), the requested conditions, of several a dict by name; None for none.
        reference: the real data.
        pipeline: the denoiser of the run on its device, with its sampler, guidance and conditions.
        run: the run folder.
        cost: evaluations and seconds that the samples took; None for samples from a file.
        trajectory: (T, k, C, *S) in the units of the data, the sampling trajectory of the first k samples; optional.
        from_file: True if the samples come from a file instead of the model.
        seed: seed of the random draws of the metrics.
        n: number of samples, known before they are drawn.
        paired: True if the conditions are those of the test data in turn, so that each sample has a `truth`.
    """

    x: Tensor
    cond: Cond | None
    reference: ReferenceData
    pipeline: Pipeline
    run: Run
    cost: Cost | None = None
    trajectory: Tensor | None = None
    from_file: bool = False
    seed: int = 0
    n: int = 0
    paired: bool = False

    def __post_init__(self) -> None:
        self.n = self.n or len(self.x)

    @property
    def label(self) -> Tensor | None:
        """The requested labels (N,); None without labels."""
        return class_of(self.cond)

    @property
    def truth(self) -> Tensor | None:
        """The test data (N, C, *S) whose conditions the samples were given, in the units of the data."""
        return self.data.to_units(self.true_batch["x"]) if self.paired else None

    @property
    def true_label(self) -> Tensor | None:
        """The labels (N,) of these test data; None without."""
        return self.true_batch.get("label") if self.paired else None

    @property
    def true_batch(self) -> Batch:
        """The test data whose conditions the samples were given."""
        data = self.data.test_set
        return data[0, torch.arange(len(self.x)) % len(data)]

    @property
    def data(self) -> DataModule:
        return self.reference.data

    @property
    def kind(self) -> Kind:
        """The kind of the data."""
        return self.reference.kind

    @property
    def train(self) -> RealData:
        """The training data of the model."""
        return self.reference.train

    @property
    def test(self) -> RealData:
        """The held-out test data."""
        return self.reference.test

    @property
    def features(self) -> Features:
        """The feature space in which images are compared, built on first use."""
        return self.reference.features

    @cached_property
    def fake_features(self) -> Tensor:
        """The features (N, D) of the samples."""
        return self.features(self.x)

    def to_model(self, x: Tensor) -> Tensor:
        """Convert x from the units of the data to those of the model."""
        return self.data.to_model(x)


@dataclass
class MetricValue:
    """A number with its confidence interval and its real-data baseline.

    Attributes:
        name: title in the report.
        value: the number.
        low, high: ends of its 95 % interval, where known.
        real_baseline: the same metric computed on as many real data as there are samples: a lower bound of a distance,
            an upper bound of a precision.
        better: "lower" or "higher"; None if neither is better.
        digits: significant digits in the report.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    real_baseline: float | None = None
    better: Better | None = None
    digits: int = 3

    def format(self, number: float) -> str:
        """Format a number with the digits of this metric."""
        if not isfinite(number):
            return NOT_AVAILABLE
        return f"{number:,.{self.digits}g}" if abs(number) < 1000 else f"{number:,.0f}"

    @property
    def text(self) -> str:
        """The value, its interval and its real-data baseline as one line."""
        interval = f" [{self.format(self.interval[0])}, {self.format(self.interval[1])}]" if self.interval else ""
        real = "" if self.real_baseline is None else f", real data {self.format(self.real_baseline)}"
        return self.format(self.value) + interval + real

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval, or None if unknown."""
        known = self.low is not None and self.high is not None and isfinite(self.low) and isfinite(self.high)
        return (self.low, self.high) if known else None  # type: ignore[return-value]

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes for JSON, with None in place of NaN and infinity."""
        return {k: None if isinstance(v, float) and not isfinite(v) else v for k, v in asdict(self).items()}


class Picture(NamedTuple):
    """A picture of the report; a list of images is an animation that pauses on its last frame."""

    image: Image.Image | list[Image.Image]
    caption: str


@dataclass
class ReportSection:
    """The result of a metric.

    Attributes:
        title: heading in the report.
        values: by their key in metrics.json and TensorBoard.
        pictures: by file name, without suffix.
        notes: paragraphs of text, such as how to read the numbers.
        tables: further results for metrics.json as plain containers, such as curves.
        interpretation: the meaning of the numbers, in sentences; see :attr:`conclusion`.
        headline: what the head of the report says, by its title there.
    """

    title: str
    values: dict[str, MetricValue] = field(default_factory=dict)
    pictures: dict[str, Picture] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    tables: dict[str, Any] = field(default_factory=dict)
    interpretation: str = ""
    headline: dict[str, str] = field(default_factory=dict)

    @property
    def conclusion(self) -> str:
        """The interpretation, or the values that are NaN or infinite and prevent one."""
        missing = [v.name for v in self.values.values() for end in (v.value, v.low, v.high) if not isfinite(end or 0.0)]
        if not self.interpretation or not missing:
            return self.interpretation
        return f"No conclusion: {', '.join(dict.fromkeys(missing))}: not available (NaN or infinite)."


class Metric(ABC):
    """Base class of the metrics of conf/metrics; a subclass implements `__call__`.

    Attributes:
        kinds: kinds of data that it applies to.
        needs_samples: False if it evaluates the denoiser without samples.
        min_samples: smallest number of samples.
    """

    kinds: tuple[Kind, ...] = get_args(Kind)
    needs_samples = True
    min_samples = 1

    @abstractmethod
    def __call__(self, context: EvalContext) -> ReportSection:
        """Compute the metric."""

    def min_samples_for(self, context: EvalContext) -> int:
        """Return the smallest number of samples for these data, known before anything is drawn or trained."""
        return self.min_samples

    def why_not_applicable(self, context: EvalContext) -> str | None:
        """Return why the metric does not apply to this run, or None; called before samples are drawn.

        Metrics that do not apply are skipped unless the user has named them.
        """
        if context.kind not in self.kinds:
            return f"it is for {' and '.join(self.kinds)}, and the data of this run are {context.kind}"
        return None

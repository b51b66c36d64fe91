"""What is measured of a run: a measure takes a subject, and says in a section of the report what it found."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import isfinite
from typing import Any, Literal, NamedTuple, get_args

from PIL import Image
from torch import Tensor

from src.data.base import DataModule
from src.metrics.features.base import Features, Real, Reference
from src.runs.run import Run
from src.samplers.pipeline import Cost, Pipeline
from src.utils.units import Kind

NOT_AVAILABLE = "not available"


@dataclass
class Subject:
    """What is measured.

    Attributes:
        x: (N, C, *S) float32 samples in the units of the data: images in [0, 1], all else as it is.
        label: (N,) int64, the labels that were asked for; None where there were none.
        reference: the real data.
        pipeline: the denoiser of the run, on its device, and how it samples.
        run: the run folder.
        cost: what the samples took; None for those that are read from a file.
        trajectory: (T, k, C, *S) in the units of the data, the first samples on their way, where there is one.
        given: whether the samples are from a file, and not drawn from the model.
        seed: of whatever a measure draws.
        n: how many samples there are to be, known before they are drawn.
    """

    x: Tensor
    label: Tensor | None
    reference: Reference
    pipeline: Pipeline
    run: Run
    cost: Cost | None = None
    trajectory: Tensor | None = None
    given: bool = False
    seed: int = 0
    n: int = 0

    def __post_init__(self) -> None:
        self.n = self.n or len(self.x)

    @property
    def data(self) -> DataModule:
        return self.reference.data

    @property
    def kind(self) -> Kind:
        """What one sample is."""
        return self.reference.kind

    @property
    def train(self) -> Real:
        """The data that the model learned from."""
        return self.reference.train

    @property
    def test(self) -> Real:
        """Data that it has not seen."""
        return self.reference.test

    @property
    def features(self) -> Features:
        """The space in which images are compared; made when a measure first asks for it."""
        return self.reference.features

    @cached_property
    def fake(self) -> Tensor:
        """The features (N, D) of the samples."""
        return self.features(self.x)


@dataclass
class Value:
    """A number, and what it takes to read it.

    Attributes:
        name: as the report shows it.
        value: the number.
        low, high: of its 95 % interval, where one is known.
        floor: what as many real data have in its place: the least of a distance, the most of a precision.
        better: whether lower or higher is better; None for neither.
        digits: how many significant ones are shown.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    better: Literal["lower", "higher"] | None = None
    digits: int = 3

    def shown(self, number: float) -> str:
        """A number as this one is shown."""
        if not isfinite(number):
            return NOT_AVAILABLE
        return f"{number:,.{self.digits}g}" if abs(number) < 1000 else f"{number:,.0f}"

    @property
    def text(self) -> str:
        """It, its interval, and what real data have in its place."""
        interval = f" [{self.shown(self.interval[0])}, {self.shown(self.interval[1])}]" if self.interval else ""
        floor = "" if self.floor is None else f", real data {self.shown(self.floor)}"
        return self.shown(self.value) + interval + floor

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %, where it is known."""
        known = self.low is not None and self.high is not None and isfinite(self.low) and isfinite(self.high)
        return (self.low, self.high) if known else None  # type: ignore[return-value]

    def plain(self) -> dict[str, Any]:
        """For JSON, which knows no NaN: None stands for what is not available."""
        return {k: None if isinstance(v, float) and not isfinite(v) else v for k, v in asdict(self).items()}


class Picture(NamedTuple):
    """A picture of the report; several make an animation, which rests on its last."""

    image: Image.Image | list[Image.Image]
    caption: str


@dataclass
class Section:
    """What a measure found.

    Attributes:
        title: its heading in the report.
        values: by the name that they have in metrics.json and TensorBoard.
        pictures: by the name of their file, without its ending.
        verdict: what the numbers come to, in sentences; replaced by why there is none where one of them is missing.
        notes: what to say beside, such as how to read the numbers.
        tables: anything else for metrics.json, of plain containers, such as curves.
    """

    title: str
    values: dict[str, Value] = field(default_factory=dict)
    pictures: dict[str, Picture] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    tables: dict[str, Any] = field(default_factory=dict)
    verdict: str = ""

    @property
    def conclusion(self) -> str:
        """The verdict; where a number of this section, or the end of an interval, is NaN or infinite, that instead."""
        missing = [v.name for v in self.values.values() for end in (v.value, v.low, v.high) if not isfinite(end or 0.0)]
        if not self.verdict or not missing:
            return self.verdict
        return f"No conclusion: {', '.join(dict.fromkeys(missing))}: not available (NaN or infinite)."


class Measure(ABC):
    """A new one is a class with one method and a YAML in conf/metrics.

    Attributes:
        kinds: the kinds of data that it can be taken of.
        needs_samples: whether it looks at samples, or at the denoiser alone.
        least_n: samples that it needs.
    """

    kinds: tuple[Kind, ...] = get_args(Kind)
    needs_samples = True
    least_n = 1

    @abstractmethod
    def __call__(self, subject: Subject) -> Section:
        """Measure."""

    def least_for(self, subject: Subject) -> int:
        """How many samples it needs of such data, known before anything is drawn or learned."""
        return self.least_n

    def refusal(self, subject: Subject) -> str | None:
        """Why this measure says nothing of such a subject, or None; asked before the samples are drawn.

        Those that are not asked for by name are then left out.
        """
        if subject.kind not in self.kinds:
            return f"it is for {' and '.join(self.kinds)}, and this run is one of {subject.kind}"
        return None

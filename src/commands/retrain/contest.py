"""The contest of champion and challenger, on held-out old and new data."""

from collections.abc import Sequence
from math import isfinite
from typing import Any, NamedTuple

from hydra.utils import instantiate
from omegaconf import DictConfig

from src.commands.compare.table import Column, aligned, lines
from src.commands.evaluation import Evaluation
from src.commands.python_session import hydra_session, without_hydra
from src.data.joined import Joined
from src.metrics.base import MetricValue
from src.metrics.features.base import ReferenceData
from src.runs.run import Run
from src.statistics.significance import Estimate, best
from src.utils.errors import UserError
from src.utils.override_syntax import assignment, read

Values = dict[str, MetricValue]  # by the name of the metric
OLD, NEW = "old", "new"
CHAMPION, CHALLENGER = 0, 1


class Verdict(NamedTuple):
    """The outcome of a contest.

    Attributes:
        promoted: True if the challenger is to be the champion.
        reason: why, in words.
    """

    promoted: bool
    reason: str


class Contest:
    """Metrics of champion and challenger on the same held-out data.

    Args:
        data: old and new data.
        cfg: the settings of the command, with the metrics.
    """

    def __init__(self, data: Joined, cfg: DictConfig):
        self.cfg = cfg
        features = instantiate(cfg.features)
        self.references = {part: ReferenceData(getattr(data, part), features) for part in (OLD, NEW)}
        self.values: dict[str, list[Values]] = {OLD: [], NEW: []}

    def add(self, run: Run) -> None:
        """Compute the metrics of a run: of the champion first, then of the challenger."""
        for part, reference in self.references.items():
            self.values[part].append(self.values_of(run, reference))

    def values_of(self, run: Run, reference: ReferenceData) -> Values:
        """The metrics of a run on some data."""
        cfg = self.cfg
        own = ["n", "seed", "device", "precision", "batch_size", "trust"]
        words = [assignment("run", str(run.path)), *(assignment(key, cfg[key]) for key in own)]
        with hydra_session("evaluate", words) as composed:
            settings = without_hydra(composed)
            settings.metrics = cfg.metrics
            named = {read(word).key for word in words} | {"metrics"}
            evaluation = Evaluation.prepare(settings, named, reference)
            sections = evaluation.compute_metrics(evaluation.draw())
        return {name: value for section in sections.values() for name, value in section.values.items()}

    @property
    def metric(self) -> str:
        """The metric that decides.

        Raises:
            UserError: if there is none of that name with a better direction.
        """
        there = [name for name, value in self.values[NEW][CHAMPION].items() if value.better is not None]
        name = self.cfg.metric
        if name is None and there:
            return there[0]
        if name not in there:
            raise UserError(f"metric={name} must be one of {', '.join(there) or 'none'}, with a better direction")
        return name

    @property
    def champion(self) -> str:
        """The metric of the champion, in words."""
        return ", ".join(f"{self.values[part][CHAMPION][self.metric].text} on {part} data" for part in (NEW, OLD))

    def verdict(self) -> Verdict:
        """Whether the challenger is promoted."""
        pairs = ([values[self.metric] for values in self.values[part]] for part in (OLD, NEW))
        return judge(*pairs)

    def table(self) -> str:
        """The values as src.compare shows them, the significantly better one marked."""
        heads = [{"": "champion"}, {"": "challenger"}]
        names = {name: value.name for name, value in self.values[NEW][CHAMPION].items() if value.better is not None}
        columns = [
            Column(f"{title}, {part} data", [estimate(v.get(name)) for v in self.values[part]], self.direction(name))
            for name, title in names.items()
            for part in (NEW, OLD)
        ]
        return aligned(lines(heads, columns))

    def direction(self, name: str) -> Any:
        """The better direction of a metric."""
        return self.values[NEW][CHAMPION][name].better

    def as_dict(self) -> dict[str, Any]:
        """All values, for JSON."""
        names = ("champion", "challenger")
        return {
            part: {
                who: {name: value.to_dict() for name, value in each.items()}
                for who, each in zip(names, found, strict=True)
            }
            for part, found in self.values.items()
        }


def judge(old: Sequence[MetricValue], new: Sequence[MetricValue]) -> Verdict:
    """Promote a challenger that src.compare would mark as better on new data, and not as worse on old data.

    Args:
        old: a metric of the champion and of the challenger on old data.
        new: the same on new data.
    """
    if not all(isfinite(value.value) for value in (*old, *new)):
        return Verdict(False, f"{new[0].name} is not finite")
    winners = [best([estimate(value) for value in pair], pair[0].better) for pair in (old, new)]
    texts = [f"{pair[CHALLENGER].text} beside {pair[CHAMPION].text}" for pair in (old, new)]
    if winners[0] == CHAMPION:
        return Verdict(False, f"{old[0].name} on old data is worse by more than the noise: {texts[0]}")
    if winners[1] != CHALLENGER:
        return Verdict(False, f"{new[0].name} on new data is not better by more than the noise: {texts[1]}")
    return Verdict(True, f"{new[0].name} on new data is better, {texts[1]}, and on old data not worse, {texts[0]}")


def estimate(value: MetricValue | None) -> Estimate | None:
    """A metric as src.compare takes it."""
    return None if value is None else Estimate((value.value,), *(value.interval or (None, None)))

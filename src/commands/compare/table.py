"""The table of a comparison: one row for runs that are the same but for their seed, the best of a column marked."""

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from math import inf, isfinite
from statistics import fmean

from src.commands.compare import evaluations as quality
from src.commands.compare.evaluations import Evaluation
from src.commands.compare.records import Record
from src.commands.compare.settings import MISSING, Setting
from src.statistics.significance import Better, Estimate, best

MARK = "★"
# What a loss is the mean of; not the parameterization, since weightings are stated in the space of the data.
# Results of callbacks=quality.
FEW_SAMPLES = {
    "quality/frechet_distance": "Fréchet, few samples",
    "quality/sliced_wasserstein": "sliced, few samples",
}
DEFINES_LOSS = ("loss", "weighting", "schedule")


@dataclass(frozen=True)
class Group:
    """Runs that are the same but for their seed.

    Attributes:
        places: where its runs stand among all.
        settings: those that tell it from other groups, by key.
        name: as short as tells it from the others.
    """

    places: tuple[int, ...]
    records: tuple[Record, ...]
    settings: dict[str, str]
    name: str = ""

    @property
    def runs(self) -> str:
        """The names of its runs; what they begin with once."""
        names = [r.name for r in self.records]
        parent = names[0].rpartition("/")[0]
        same = parent and all(name.rpartition("/")[0] == parent for name in names)
        return f"{parent}/{', '.join(n.rpartition('/')[2] for n in names)}" if same else ", ".join(names)

    @property
    def head(self) -> dict[str, str]:
        """What its row begins with."""
        return {"run": self.runs, **self.settings, "seeds": ", ".join(str(r.seed) for r in self.records)}


def group(records: Sequence[Record], shown: Sequence[Setting], following: Sequence[Setting]) -> list[Group]:
    """The rows, in the order of their first runs; a run that repeats another, seed and all, is a row of its own."""
    rows: dict[tuple[tuple[str, ...], int], list[int]] = {}
    seen: Counter[tuple[tuple[str, ...], int]] = Counter()
    for place, record in enumerate(records):
        values = tuple(s.values[place] for s in (*shown, *following))
        repeats = seen[values, record.seed]
        seen[values, record.seed] += 1
        rows.setdefault((values, repeats), []).append(place)
    groups = [
        Group(tuple(places), tuple(records[i] for i in places), {s.key: s.values[places[0]] for s in shown})
        for places in rows.values()
    ]
    told = [", ".join(value for value in g.settings.values() if value != MISSING) for g in groups]
    times = Counter(told)
    short = [name and len(name) <= 40 and times[name] == 1 for name in told]
    return [replace(g, name=told[i] if short[i] else g.runs) for i, g in enumerate(groups)]


@dataclass(frozen=True)
class Outcome:
    """A column of what came out.

    Attributes:
        title: its heading.
        estimates: of each row; None where there is nothing.
        better: whether lower or higher is; None where none is, or the numbers cannot be compared.
    """

    title: str
    estimates: Sequence[Estimate | None]
    better: Better | None = None

    @property
    def cells(self) -> list[str]:
        marked = best(self.estimates, self.better)
        return [
            MISSING if e is None else f"{e} {MARK}" if i == marked else str(e) for i, e in enumerate(self.estimates)
        ]

    @property
    def constant(self) -> bool:
        """Whether all rows have the same number, so that a line says as much as a column."""
        values = {v for e in self.estimates if e is not None for v in e.values}
        return len(values) == 1 and None not in self.estimates and len(self.estimates) > 1


def outcomes(
    groups: Sequence[Group],
    evaluations: Sequence[Evaluation | None],
    same: bool,
    nfe: Sequence[float | None],
) -> list[Outcome]:
    """All columns in which some row has something.

    Args:
        groups: the rows.
        evaluations: of each run.
        same: whether the metrics of the evaluations can be compared.
        nfe: evaluations of the network for a sample, of runs that were not evaluated.
    """
    losses_better: Better | None = None if loss_differs([r for g in groups for r in g.records]) else "lower"
    there = [[e for i in g.places if (e := evaluations[i])] for g in groups]
    of = unit([r for g in groups for r in g.records])
    found = [
        Outcome("val loss", [over(g, val_loss) for g in groups], losses_better),
        Outcome("train loss", [over(g, train_loss) for g in groups], losses_better),
        *(few_samples(groups, key, title) for key, title in FEW_SAMPLES.items()),
        *metrics([[evaluations[i] for i in g.places] for g in groups], quality.main_names(evaluations), same),
        Outcome(f"{of} seen", [over(g, samples_seen) for g in groups]),
        Outcome("training s", [over(g, lambda r: result(r, "seconds")) for g in groups], "lower"),
        Outcome(f"{of}/s", [over(g, lambda r: result(r, "samples_per_second")) for g in groups], "higher"),
        Outcome("parameters", [over(g, lambda r: r.facts.get("parameters")) for g in groups]),
        Outcome("nfe", [estimate([e["nfe"] if (e := evaluations[i]) else nfe[i] for i in g.places]) for g in groups]),
        Outcome("s per 1,000", [estimate([quality.seconds_per_thousand(e) for e in es]) for es in there], "lower"),
    ]  # fmt: skip
    return [o for o in found if any(o.estimates)]


def few_samples(groups: Sequence[Group], key: str, title: str) -> Outcome:
    """The column of a result of callbacks=quality."""
    return Outcome(title, [over(g, lambda r: result(r, key)) for g in groups], "lower")


def metrics(rows: Sequence[Sequence[Evaluation | None]], names: Mapping[str, str], same: bool = True) -> list[Outcome]:
    """A column for each metric.

    Args:
        rows: the evaluations of each row.
        names: of the metrics to show, by key.
        same: whether they can be compared.
    """
    every = [e for row in rows for e in row]
    return [
        Outcome(name, [quality.estimate(key, row) for row in rows], quality.direction(key, every) if same else None)
        for key, name in names.items()
    ]


def estimate(values: Sequence[float | None]) -> Estimate | None:
    """Of those that there are."""
    known = tuple(float(v) for v in values if v is not None)
    return Estimate(known) if known else None


def over(group: Group, value: Callable[[Record], float | None]) -> Estimate | None:
    """Of the runs of a row."""
    return estimate([value(record) for record in group.records])


def result(record: Record, key: str) -> float | None:
    return (record.results or {}).get(key)


def val_loss(record: Record) -> float | None:
    """The lowest of the averaged weights."""
    return min((v for row in record.rows if isfinite(v := row.get("val/loss_ema", inf))), default=None)


def train_loss(record: Record) -> float | None:
    """The mean of the last tenth of what was logged."""
    losses = [row["train/loss"] for row in record.rows if "train/loss" in row]
    return fmean(losses[-max(1, len(losses) // 10) :]) if losses else None


def samples_seen(record: Record) -> float:
    return record.steps * record.batch_size


def unit(records: Sequence[Record]) -> str:
    """What a training sample is called."""
    return records[0].config["callbacks"].get("progress", {}).get("unit", "samples")


def loss_differs(records: Sequence[Record]) -> list[str]:
    """The settings by which the loss of one run is not that of another."""
    first = records[0]
    found = [key for key in DEFINES_LOSS if any(r.config.get(key) != first.config.get(key) for r in records)]
    return found + (["data"] if any(r.other_data(first) for r in records) else [])


# ---- as text ----


def the_same(columns: Sequence[Outcome]) -> list[str]:
    """A line on the columns in which all rows have the same number."""
    told = [f"{column.title} {column.estimates[0]}" for column in columns if column.constant]
    return [f"The same in all rows: {', '.join(told)}."] if told else []


def lines(heads: Sequence[dict[str, str]], columns: Sequence[Outcome]) -> list[list[str]]:
    """The heading and the rows, as cells of text.

    Args:
        heads: what begins each row, by the title of its column.
        columns: what came out.
    """
    cells = [column.cells for column in columns]
    rows = [[*head.values(), *(column[i] for column in cells)] for i, head in enumerate(heads)]
    return [[*heads[0], *(column.title for column in columns)], *rows]


def aligned(table: Sequence[Sequence[str]]) -> str:
    """For a terminal."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in table)


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A Markdown table, in which what is marked is bold."""
    rows = [[bold(cell).replace("|", "\\|") for cell in row] for row in table]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    return "\n".join([text[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *text[1:]])


def bold(cell: str) -> str:
    return f"**{cell.removesuffix(f' {MARK}')}**" if cell.endswith(MARK) else cell


def as_csv(heads: Sequence[dict[str, str]], columns: Sequence[Outcome]) -> str:
    """All numbers in full: of each outcome the mean, and where they are known std over the seeds, low and high."""
    rows = []
    for i, head in enumerate(heads):
        row: dict[str, object] = dict(head)
        for column in columns:
            if e := column.estimates[i]:
                low, high = e.interval or (None, None)
                numbers = {"": e.mean, " std": e.std, " low": low, " high": high}
                row |= {column.title + name: value for name, value in numbers.items() if value is not None}
        rows.append(row)
    text = StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()

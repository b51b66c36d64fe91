"""The table of a comparison: one row for runs that differ only in their seed, with the best value marked."""

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from math import inf, isfinite
from statistics import fmean

from src.commands.compare import evaluations as quality
from src.commands.compare.evaluations import Evaluation
from src.commands.compare.records import RunRecord
from src.commands.compare.settings import MISSING, Setting
from src.statistics.significance import Better, Estimate, best

MARK = "★"
# Settings that define the loss; not the parameterization, since weightings are defined in the space of x_0.
# Results of callbacks=quality.
FEW_SAMPLES = {
    "quality/frechet_distance": "Fréchet, few samples",
    "quality/sliced_wasserstein": "sliced, few samples",
}
DEFINES_LOSS = ("loss", "weighting", "schedule")


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ only in their seed.

    Attributes:
        places: indices of its runs.
        records: its runs.
        settings: the settings that identify it, by key.
        name: a short unique name.
    """

    places: tuple[int, ...]
    records: tuple[RunRecord, ...]
    settings: dict[str, str]
    name: str = ""

    @property
    def runs(self) -> str:
        """The names of its runs, with a common parent only once."""
        names = [r.name for r in self.records]
        parent = names[0].rpartition("/")[0]
        same = parent and all(name.rpartition("/")[0] == parent for name in names)
        return f"{parent}/{', '.join(n.rpartition('/')[2] for n in names)}" if same else ", ".join(names)

    @property
    def head(self) -> dict[str, str]:
        """The first columns of its row, by title."""
        return {"run": self.runs, **self.settings, "seeds": ", ".join(str(r.seed) for r in self.records)}


def group_runs(records: Sequence[RunRecord], shown: Sequence[Setting], following: Sequence[Setting]) -> list[RunGroup]:
    """Group the runs, in the order of the first run of each; a repeated run with the same seed starts a new group."""
    rows: dict[tuple[tuple[str, ...], int], list[int]] = {}
    seen: Counter[tuple[tuple[str, ...], int]] = Counter()
    for place, record in enumerate(records):
        values = tuple(s.values[place] for s in (*shown, *following))
        repeats = seen[values, record.seed]
        seen[values, record.seed] += 1
        rows.setdefault((values, repeats), []).append(place)
    groups = [
        RunGroup(tuple(places), tuple(records[i] for i in places), {s.key: s.values[places[0]] for s in shown})
        for places in rows.values()
    ]
    labels = [", ".join(value for value in g.settings.values() if value != MISSING) for g in groups]
    times = Counter(labels)
    short = [name and len(name) <= 40 and times[name] == 1 for name in labels]
    return [replace(g, name=labels[i] if short[i] else g.runs) for i, g in enumerate(groups)]


@dataclass(frozen=True)
class Column:
    """A column of results.

    Attributes:
        title: its heading.
        estimates: one for each row; None if missing.
        better: the better direction; None if there is none, or the numbers are not comparable.
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
        """True if all rows have the same number."""
        values = {v for e in self.estimates if e is not None for v in e.values}
        return len(values) == 1 and None not in self.estimates and len(self.estimates) > 1


def result_columns(
    groups: Sequence[RunGroup],
    evaluations: Sequence[Evaluation | None],
    same: bool,
    nfe: Sequence[float | None],
) -> list[Column]:
    """The columns of the main table that are not empty.

    Args:
        groups: the rows.
        evaluations: the evaluation of each run.
        same: True if the evaluations are comparable.
        nfe: network evaluations per sample of runs without an evaluation.
    """
    losses_better: Better | None = None if loss_differs([r for g in groups for r in g.records]) else "lower"
    there = [[e for i in g.places if (e := evaluations[i])] for g in groups]
    of = sample_noun([r for g in groups for r in g.records])
    found = [
        Column("val loss", [aggregate(g, val_loss) for g in groups], losses_better),
        Column("train loss", [aggregate(g, train_loss) for g in groups], losses_better),
        *(few_samples(groups, key, title) for key, title in FEW_SAMPLES.items()),
        *metric_columns([[evaluations[i] for i in g.places] for g in groups], quality.main_names(evaluations), same),
        Column(f"{of} seen", [aggregate(g, samples_seen) for g in groups]),
        Column("training s", [aggregate(g, lambda r: result(r, "seconds")) for g in groups], "lower"),
        Column(f"{of}/s", [aggregate(g, lambda r: result(r, "samples_per_second")) for g in groups], "higher"),
        Column("parameters", [aggregate(g, lambda r: r.facts.get("parameters")) for g in groups]),
        Column("nfe", [to_estimate([e["nfe"] if (e := evaluations[i]) else nfe[i] for i in g.places]) for g in groups]),
        Column("s per 1,000", [to_estimate([quality.seconds_per_thousand(e) for e in es]) for es in there], "lower"),
    ]  # fmt: skip
    return [o for o in found if any(o.estimates)]


def few_samples(groups: Sequence[RunGroup], key: str, title: str) -> Column:
    """The column of a result of callbacks=quality."""
    return Column(title, [aggregate(g, lambda r: result(r, key)) for g in groups], "lower")


def metric_columns(
    rows: Sequence[Sequence[Evaluation | None]], names: Mapping[str, str], same: bool = True
) -> list[Column]:
    """A column for each metric.

    Args:
        rows: the evaluations of each row.
        names: titles of the metrics, by key.
        same: True if the evaluations are comparable.
    """
    every = [e for row in rows for e in row]
    return [
        Column(
            name, [quality.metric_estimate(key, row) for row in rows], quality.direction(key, every) if same else None
        )
        for key, name in names.items()
    ]


def to_estimate(values: Sequence[float | None]) -> Estimate | None:
    """Make an estimate of the known values."""
    known = tuple(float(v) for v in values if v is not None)
    return Estimate(known) if known else None


def aggregate(group: RunGroup, value: Callable[[RunRecord], float | None]) -> Estimate | None:
    """Estimate a value over the runs of a row."""
    return to_estimate([value(record) for record in group.records])


def result(record: RunRecord, key: str) -> float | None:
    return (record.results or {}).get(key)


def val_loss(record: RunRecord) -> float | None:
    """The validation loss of the averaged weights at best.ckpt; the lowest where that is not known."""
    losses = {row["step"]: v for row in record.rows if isfinite(v := row.get("val/loss_ema", inf))}
    best = result(record, "best_step")
    return losses[best] if best in losses else min(losses.values(), default=None)


def train_loss(record: RunRecord) -> float | None:
    """The mean of the last tenth of the logged training losses."""
    losses = [row["train/loss"] for row in record.rows if "train/loss" in row]
    return fmean(losses[-max(1, len(losses) // 10) :]) if losses else None


def samples_seen(record: RunRecord) -> float:
    return record.steps * record.batch_size


def sample_noun(records: Sequence[RunRecord]) -> str:
    """The noun for training samples, such as images."""
    return records[0].config["callbacks"].get("progress", {}).get("unit", "samples")


def loss_differs(records: Sequence[RunRecord]) -> list[str]:
    """The settings that make the losses of the runs not comparable."""
    first = records[0]
    found = [key for key in DEFINES_LOSS if any(r.config.get(key) != first.config.get(key) for r in records)]
    return found + (["data"] if any(r.other_data(first) for r in records) else [])


# ---- as text ----


def constant_columns(columns: Sequence[Column]) -> list[str]:
    """A note on the columns with the same number in all rows."""
    constant = [f"{column.title} {column.estimates[0]}" for column in columns if column.constant]
    return [f"The same in all rows: {', '.join(constant)}."] if constant else []


def lines(heads: Sequence[dict[str, str]], columns: Sequence[Column]) -> list[list[str]]:
    """The header and the rows as text.

    Args:
        heads: the first columns of each row, by title.
        columns: the columns of results.
    """
    cells = [column.cells for column in columns]
    rows = [[*head.values(), *(column[i] for column in cells)] for i, head in enumerate(heads)]
    return [[*heads[0], *(column.title for column in columns)], *rows]


def aligned(table: Sequence[Sequence[str]]) -> str:
    """Format a table for a terminal."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in table)


def markdown(table: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table, with the marked cells in bold."""
    rows = [[bold(cell).replace("|", "\\|") for cell in row] for row in table]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    return "\n".join([text[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *text[1:]])


def bold(cell: str) -> str:
    return f"**{cell.removesuffix(f' {MARK}')}**" if cell.endswith(MARK) else cell


def as_csv(heads: Sequence[dict[str, str]], columns: Sequence[Column]) -> str:
    """Format all numbers in full as CSV: the mean of each column, and std, low and high if known."""
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

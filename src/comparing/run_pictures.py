"""The plots of a comparison of runs."""

from collections.abc import Callable, Mapping, Sequence

from src.comparing import quality
from src.comparing.drawing import Drawn
from src.comparing.quality import Evaluation
from src.comparing.report import Report
from src.comparing.table import Group, Outcome, unit
from src.plots.compare import Point, quality_against_cost, side_by_side, training_curves
from src.plots.parallel import parallel_coordinates

LOSS, FLOOR = "val/loss_ema", "quality/floor"  # as they are logged; the floor is that of as many training data
NAMES = {"frechet": "Fréchet distance of few samples", "sliced": "sliced Wasserstein distance of few samples"}


def samples(report: Report, drawn: Mapping[str, Drawn]) -> None:
    """Samples of every run, a picture for each shape and kind."""
    if drawn:
        report.section("Samples")
    for shape, kind in dict.fromkeys((d.x.shape[1:], d.kind) for d in drawn.values()):
        alike = {name: d.x for name, d in drawn.items() if (d.x.shape[1:], d.kind) == (shape, kind)}
        name = "samples_" + "x".join(map(str, shape))
        report.picture(name, side_by_side(alike, kind), "From the same noise, each run by its own sampler.")


def curves(report: Report, groups: Sequence[Group]) -> None:
    """The validation loss and what quality was measured during training, against images and against seconds."""
    records = [r for g in groups for r in g.records]
    logged = dict.fromkeys(key for r in records for row in r.rows for key in row)
    named = {key: key.removeprefix("quality/") for key in logged if key.startswith("quality/") and key != FLOOR}
    keys = {key: NAMES.get(name, name) for key, name in named.items()}
    floor = next((row[FLOOR] for r in records for row in r.rows if FLOOR in row), None)
    if LOSS in logged:
        keys = {LOSS: "validation loss", **keys}
    if keys:
        report.section("Over training")
    for key, title in keys.items():
        runs = {g.name: [c for r in g.records if (c := r.curve(key)).values] for g in groups}
        by_samples = {name: [(c.samples, c.values) for c in its] for name, its in runs.items()}
        by_seconds = {name: [(c.seconds, c.values) for c in its if c.seconds] for name, its in runs.items()}
        real = floor if key != LOSS else None
        for x, lines in ((f"training {unit(records)}", by_samples), ("seconds of training", by_seconds)):
            if any(lines.values()):
                name = f"{title} by {x}".replace("/", "_").replace(" ", "_")
                report.picture(
                    name, training_curves(lines, x, title, real), f"{title[:1].upper()}{title[1:]} against {x}."
                )


def fronts(report: Report, groups: Sequence[Group], chosen: Sequence[Evaluation | None]) -> None:
    """Quality against evaluations of the network and against seconds, of every evaluation that can be compared."""
    metric = main_metric(chosen)
    if metric is None:
        return
    key, title = metric
    like = next(quality.settings(e) for e in chosen if e)
    ours = [(g.name, e) for g in groups for r in g.records for e in r.evaluations]
    found = [(name, e) for name, e in ours if quality.settings(e) == like]
    add_fronts(report, found, key, title)


def add_fronts(
    report: Report, found: Sequence[tuple[str, Evaluation]], key: str, title: str, joined: bool = False
) -> None:
    """A plot for each kind of cost.

    Args:
        found: evaluations, with the name of the series that each belongs to.
        key, title: of the metric.
        joined: whether the evaluations of a series are one thing at several costs.
    """
    found = [(name, e) for name, e in found if quality.is_number(e["metrics"].get(key, {}).get("value"))]
    if len(found) < 2:
        return
    report.section("Quality against cost")
    evaluations = [e for _, e in found]
    better = quality.direction(key, evaluations) or "lower"
    costs: dict[str, Callable[[Evaluation], float]] = {
        "evaluations of the network": lambda e: e["nfe"],
        "seconds for 1,000 samples": quality.seconds_per_thousand,
    }
    for name, cost in costs.items():
        points = []
        for series, e in found:
            metric = e["metrics"][key]
            told = str(e["sampler"].get("steps", "")) if joined else quality.sampler_name(e)
            points.append(Point(series, told, cost(e), metric["value"], metric.get("low"), metric.get("high")))
        picture = quality_against_cost(points, name, title, better, quality.floor_of(key, evaluations), joined)
        caption = f"{title} against {name}. The Pareto front joins what nothing else beats in both."
        report.picture(f"quality by {name}".replace(" ", "_").replace(",", ""), picture, caption)


def main_metric(evaluations: Sequence[Evaluation | None]) -> tuple[str, str] | None:
    """The key and the name of the first metric of which one knows what is better."""
    names = quality.main_names(evaluations) | quality.metric_names(evaluations)
    return next(((key, name) for key, name in names.items() if quality.direction(key, evaluations)), None)


def settings(report: Report, groups: Sequence[Group], columns: Sequence[Outcome], title: str) -> None:
    """The way of every row through its settings to what came out, in the column of that title; from three rows on."""
    column = next((c for c in columns if c.title == title), None)
    there = [i for i, e in enumerate(column.estimates) if e is not None] if column else []
    keys = [key for key in groups[0].settings if len({groups[i].settings[key] for i in there}) > 1]
    if column is None or len(there) < 3 or not keys:
        return
    report.section("Settings")
    ways = {key: [groups[i].settings[key] for i in there] for key in keys}
    means = [e.mean for i in there if (e := column.estimates[i])]
    picture = parallel_coordinates(ways, title, means, column.better or "lower")
    report.picture("settings", picture, f"Each line is a row of the table, colored by its {title}.")

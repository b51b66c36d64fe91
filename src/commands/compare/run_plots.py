"""The plots of a comparison of runs."""

from collections.abc import Callable, Collection, Mapping, Sequence
from math import isfinite

from src.commands.compare import evaluations as quality
from src.commands.compare.evaluations import Evaluation
from src.commands.compare.report import Report
from src.commands.compare.samples import SampledRun
from src.commands.compare.table import DEFINES_LOSS, Column, RunGroup, loss_differs, sample_noun
from src.plots.guidance_frontier import guidance_frontier
from src.plots.parallel import parallel_coordinates
from src.plots.quality_against_cost import Point, quality_against_cost
from src.plots.side_by_side import how_many, side_by_side
from src.plots.training_curves import training_curves

LOSS, REAL_BASELINE = "val/loss_ema", "quality/real_baseline"
MAX_LOSSES = 6  # kinds of losses with a plot each
NAMES = {
    "mean_bias_percent": "mean of the elements, difference from the test data (%)",
    "contrast_bias_percent": "contrast, difference from the test data (%)",
    "low_percent": "elements at the lower end of the range (%)",
    "histogram_distance": "histogram of the elements, total variation from the test data",
    "fine_detail_db": "power above 1/4 cycle per element, relative to the test data (dB)",
    "frechet_distance": "Fréchet distance of few samples",
    "sliced_wasserstein": "sliced Wasserstein distance of few samples",
}


def add_samples(report: Report, drawn: Mapping[str, SampledRun]) -> None:
    """Add samples of all runs, with one picture for each shape and kind."""
    if drawn:
        report.section("Samples")
    for shape, kind in dict.fromkeys((d.x.shape[1:], d.kind) for d in drawn.values()):
        alike = {name: d.x for name, d in drawn.items() if (d.x.shape[1:], d.kind) == (shape, kind)}
        name = "samples_" + "x".join(map(str, shape))
        caption = f"From the same noise, each run with its own sampler{how_many(next(iter(alike.values())))}."
        report.picture(name, side_by_side(alike, kind), caption)


def add_curves(report: Report, groups: Sequence[RunGroup], best: Sequence[RunGroup]) -> None:
    """Add plots of the validation loss and of the sample quality over training, against images and seconds.

    Losses that are not comparable are in separate plots.

    Args:
        report: the report.
        groups: the rows.
        best: rows with a color and a name; the others are gray.
    """
    records = [r for g in groups for r in g.records]
    logged = dict.fromkeys(key for r in records for row in r.rows for key in row)
    named = {key: key.removeprefix("quality/") for key in logged if key.startswith("quality/") and key != REAL_BASELINE}
    keys = {key: NAMES.get(name, name) for key, name in named.items()}
    real = next((row[REAL_BASELINE] for r in records for row in r.rows if REAL_BASELINE in row), None)
    if LOSS in logged:
        keys = {LOSS: "validation loss", **keys}
    if keys:
        report.section("Over training")
    for key, title in keys.items():
        if key != LOSS:  # the baseline is that of the first value alone
            add_curve(report, key, title, groups, best, real if key == next(iter(named)) else None)
            continue
        kinds = losses_apart(groups)
        for number, (what, alike) in enumerate(list(kinds.items())[:MAX_LOSSES], 1):
            of = f", {what}" if len(kinds) > 1 else ""
            add_curve(report, key, f"{title}{of}", alike, best, None, f"{title} {number}" if of else title)
        if len(kinds) > 1:
            shown = f" {MAX_LOSSES} of {len(kinds)} kinds of losses are shown." if len(kinds) > MAX_LOSSES else ""
            report.notes([f"Losses of different plots are not comparable.{shown}"])


def losses_apart(groups: Sequence[RunGroup]) -> dict[str, list[RunGroup]]:
    """The rows with comparable losses, by the settings that they share."""
    found: list[list[RunGroup]] = []
    for g in groups:
        alike = next((rows for rows in found if not loss_differs([rows[0].records[0], g.records[0]])), None)
        if alike is None:
            found.append(alike := [])
        alike.append(g)
    return {common(alike, f"kind {i}"): alike for i, alike in enumerate(found, 1)}


def common(groups: Sequence[RunGroup], otherwise: str) -> str:
    """The settings of the table that define the loss of these rows, or else a name."""
    first = groups[0].settings
    keys = [key for key in first if key.split(".")[0] in (*DEFINES_LOSS, "data", "experiment")]
    same = [f"{key}={first[key]}" for key in keys if all(g.settings[key] == first[key] for g in groups)]
    return ", ".join(same) or (groups[0].name if len(groups) == 1 else f"{otherwise}: {groups[0].name} and alike")


def add_curve(
    report: Report,
    key: str,
    title: str,
    groups: Sequence[RunGroup],
    best: Sequence[RunGroup],
    real: float | None,
    file: str | None = None,
) -> None:
    """Add plots of a logged value, against training samples and against seconds."""
    unit_ = sample_noun([r for g in groups for r in g.records])
    named = [g for g in best if g in groups] or list(groups[: len(best)])
    runs = {g.name: [c for r in g.records if (c := r.curve(key)).values] for g in groups}
    names = {g.name for g in named}
    for x, which in ((f"training {unit_}", 0), ("seconds of training", 1)):
        lines = {name: [(c[which], c.values) for c in its if c[which]] for name, its in runs.items()}
        if any(lines.values()):
            shown = {g.name: lines[g.name] for g in named}
            others = [line for name, its in lines.items() if name not in names for line in its]
            caption = f"{title[:1].upper()}{title[1:]} against {x}."
            if others:
                caption += f" {len(named)} of {len(groups)} rows are colored; the others are gray."
            picture = training_curves(shown, x, title, real, others)
            report.picture(f"{file or title} by {x}".replace("/", "_").replace(" ", "_"), picture, caption)


def add_cost_plots(
    report: Report,
    groups: Sequence[RunGroup],
    best: Sequence[RunGroup],
    chosen: Sequence[Evaluation | None],
    metric: tuple[str, str] | None,
) -> None:
    """Add plots of quality against network evaluations and against seconds, for all comparable evaluations."""
    if metric is None:
        return
    key, title = metric
    like = next(quality.comparison_key(e) for e in chosen if e)
    ours = [(g.name, e) for g in groups for r in g.records for e in r.evaluations]
    found = [(name, e) for name, e in ours if quality.comparison_key(e) == like]
    plot_against_cost(report, found, key, title, named={g.name for g in best})


def plot_against_cost(
    report: Report,
    found: Sequence[tuple[str, Evaluation]],
    key: str,
    title: str,
    joined: bool = False,
    named: Collection[str] | None = None,
) -> None:
    """Add a plot for each kind of cost.

    Args:
        report: the report.
        found: evaluations, each with the name of its series.
        key, title: key and title of the metric.
        joined: True to join the points of a series by a line.
        named: series with a color and a name; None for all.
    """
    found = [(name, e) for name, e in found if quality.is_number(e["metrics"].get(key, {}).get("value"))]
    if len(found) < 2:
        return
    report.section("Quality against cost")
    evaluations = [e for _, e in found]
    better = quality.direction(key, evaluations) or "lower"
    costs: dict[str, Callable[[Evaluation], float]] = {
        "network evaluations": lambda e: e["nfe"],
        "seconds for 1,000 samples": quality.seconds_per_thousand,
    }
    for name, cost in costs.items():
        points = []
        for series, e in found:
            metric = e["metrics"][key]
            label = str(e["sampler"].get("steps", "")) if joined else quality.sampler_name(e)
            points.append(Point(series, label, cost(e), metric["value"], metric.get("low"), metric.get("high")))
        picture = quality_against_cost(
            points, name, title, better, quality.real_baseline_of(key, evaluations), joined, named
        )
        caption = f"{title} against {name}, with the Pareto front."
        report.picture(f"quality by {name}".replace(" ", "_").replace(",", ""), picture, caption)


def plot_over_guidance(report: Report, found: Sequence[tuple[str, float, Evaluation]]) -> None:
    """Add a plot of fidelity against variety, if there are several scales of guidance and both are measured.

    Args:
        report: the report.
        found: evaluations, each with the name of its line and its scale.
    """
    keys = ("recall", "frechet_distance")
    both = [it for it in found if all(quality.is_number(it[2]["metrics"].get(key, {}).get("value")) for key in keys)]
    if len({scale for _, scale, _ in both}) < 2:
        return
    evaluations = [e for _, _, e in both]
    names = quality.metric_names(evaluations)
    across, up = (f"{names[key]} ({quality.direction(key, evaluations)} is better)" for key in keys)
    points = []
    for series, scale, e in sorted(both, key=lambda it: it[1]):
        variety, fidelity = (e["metrics"][key] for key in keys)
        ends = fidelity.get("low"), fidelity.get("high")
        points.append(Point(series, f"{scale:g}", variety["value"], fidelity["value"], *ends))
    x, y = (quality.real_baseline_of(key, evaluations) for key in keys)
    real = None if x is None or y is None else (x, y)
    report.section("Over the scale of guidance")
    caption = f"{names[keys[1]]} against {names[keys[0]]}, beside each point the scale."
    report.picture("guidance", guidance_frontier(points, across, up, real), caption)


def main_metric(evaluations: Sequence[Evaluation | None]) -> tuple[str, str] | None:
    """The key and the title of the first metric with a better direction."""
    names = quality.main_names(evaluations) | quality.metric_names(evaluations)
    return next(((key, name) for key, name in names.items() if quality.direction(key, evaluations)), None)


def add_settings(report: Report, groups: Sequence[RunGroup], columns: Sequence[Column], title: str) -> None:
    """Add parallel coordinates of settings and results, in the column of that title, for at least three rows."""
    column = next((c for c in columns if c.title == title), None)
    there = [i for i, e in enumerate(column.estimates) if e and isfinite(e.mean)] if column else []
    keys = [key for key in groups[0].settings if len({groups[i].settings[key] for i in there}) > 1]
    if column is None or column.better is None or len(there) < 3 or not keys:
        return
    report.section("Settings")
    ways = {key: [groups[i].settings[key] for i in there] for key in keys}
    means = [e.mean for i in there if (e := column.estimates[i])]
    picture = parallel_coordinates(ways, title, means, column.better)
    report.picture("settings", picture, f"Each line is a row of the table, colored by its {title}.")

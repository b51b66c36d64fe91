"""Runs and samplers side by side: curves over training, quality against cost, samples from the same noise."""

from collections.abc import Collection, Mapping, Sequence
from math import ceil, isfinite, log10
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from src.plots.fields import as_images
from src.plots.pictures import (
    GREY,
    draw_points,
    image_grid,
    limit_of,
    new_figure,
    position_colors,
    to_picture,
    with_row_names,
)
from src.utils.units import Kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe, Ito 2008: told apart with every kind of color vision; then the same again with other lines and markers.
COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
LINES, MARKERS = ["-", "--", ":", "-."], ["o", "s", "^", "D"]
SIZE = 6.6, 5.2  # inches; small, so that what is written can be read on a phone
IN_ROW, PANELS = 16, 4  # images and signals of one run


class Point(NamedTuple):
    """What one way of sampling costs, and what it gives.

    Attributes:
        series: those of one name get one color, and where there are several of them, a line.
        label: written beside the point.
        low, high: of the 95 % interval of the value, where one is known.
    """

    series: str
    label: str
    cost: float
    value: float
    low: float | None = None
    high: float | None = None


Better = Literal["lower", "higher"]


def style_of(i: int) -> dict[str, Any]:
    """Color, line and marker of the i-th series."""
    round_ = i // len(COLORS)
    return {
        "color": COLORS[i % len(COLORS)],
        "linestyle": LINES[round_ % len(LINES)],
        "marker": MARKERS[round_ % len(MARKERS)],
    }


# ---- over training ----


def training_curves(
    curves: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]],
    xlabel: str,
    ylabel: str,
    real_baseline: float | None = None,
    others: Sequence[tuple[Sequence[float], Sequence[float]]] = (),
) -> Image.Image:
    """A value over training: one color a row of the table, one line a seed.

    Args:
        curves: for each row (x, values) of its runs.
        xlabel, ylabel: of x and values.
        real_baseline: the value of as many real data, if known.
        others: (x, values) of runs that are grey and have no name.
    """
    figure, axes = new_figure(*SIZE)
    axis = axes[0, 0]
    values: list[float] = []
    for j, (x, y) in enumerate(others):
        axis.plot(x, y, label="_" if j else f"{len(others)} others", linewidth=0.7, color=GREY, alpha=0.6)
        values += y
    for i, (name, runs) in enumerate(curves.items()):
        for j, (x, y) in enumerate(runs):
            axis.plot(x, y, label="_" if j else name, linewidth=1.5, markersize=4, **style_of(i))
            values += y
    if real_baseline is not None:
        draw_real_baseline(axis, real_baseline)
        values.append(real_baseline)
    values = [value for value in values if isfinite(value)]
    if values and min(values) > 0:
        log_scale(axis, "y", values)
    axis.set_xlabel(xlabel)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axis.set_ylabel(fill(ylabel, 50))
    axis.grid(alpha=0.3, which="both")
    legend(axis)
    return to_picture(figure)


def draw_real_baseline(axis: "Axes", real_baseline: float) -> None:
    axis.axhline(real_baseline, color="black", linewidth=0.9, linestyle=(0, (4, 3)), label="as many real data")


def legend(axis: "Axes") -> None:
    """The names below, in as many columns as there is room for; many of them make the figure taller."""
    handles, names = axis.get_legend_handles_labels()
    names = [in_short(name) for name in names]
    columns = max(1, min(4, len(names), 64 // (max(map(len, names)) + 6)))
    figure: Any = axis.figure
    figure.set_figheight(figure.get_figheight() + 0.2 * max(0, ceil(len(names) / columns) - 3))
    figure.legend(handles, names, fontsize=9, loc="outside lower center", ncols=columns)


def in_short(name: str, most: int = 56) -> str:
    """A long name without its middle."""
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[:half]}…{name[-half:]}"


def log_scale(axis: "Axes", which: Literal["x", "y"], values: Sequence[float]) -> None:
    """A logarithmic axis with plain numbers on it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axis.set_xscale("log") if which == "x" else axis.set_yscale("log")
    ruler = axis.xaxis if which == "x" else axis.yaxis
    decades = log10(max(values) / min(values)) if min(values) > 0 else 1
    # Few numbers on a long axis; a short one may hold no power of ten, and is nearly even.
    ticks = (1.0,) if decades > 3 else (1.0, 2.0, 5.0)
    ruler.set_major_locator(LogLocator(subs=ticks, numticks=12) if decades > 0.6 else MaxNLocator(8))
    if decades <= 0.6:
        ruler.set_minor_locator(NullLocator())
    ruler.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    ruler.set_minor_formatter(FuncFormatter(lambda *_: ""))


# ---- quality against cost ----


def pareto_front(points: Sequence[tuple[float, float]], better: Better) -> list[int]:
    """The places of those (cost, value) that no other beats, in the order of their cost.

    One beats another where it is at least as good in both, and better in one.
    """
    sign = 1 if better == "lower" else -1
    order = sorted(range(len(points)), key=lambda i: (points[i][0], sign * points[i][1]))
    front: list[int] = []
    for i in order:
        if not front or sign * points[i][1] < sign * points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front


def quality_against_cost(
    points: Sequence[Point],
    xlabel: str,
    ylabel: str,
    better: Better,
    real_baseline: float | None = None,
    joined: bool = False,
    named: Collection[str] | None = None,
) -> Image.Image:
    """Every point with its 95 % interval, the front of those that no other beats, and what real data reach.

    Args:
        points: what to draw.
        xlabel, ylabel: of cost and value.
        better: whether a lower or a higher value is.
        real_baseline: the value of as many real data, if known.
        joined: whether the points of a series are one thing at several costs, so that a line may join them.
        named: the series with a color and a name, the others are grey; None for all.
    """
    figure, axes = new_figure(*SIZE)
    axis = axes[0, 0]
    front = [points[i] for i in pareto_front([(p.cost, p.value) for p in points], better)]
    band = {"color": GREY, "linewidth": 8, "alpha": 0.4, "solid_capstyle": "round", "zorder": 1}
    axis.plot([p.cost for p in front], [p.value for p in front], label="Pareto front", **band)
    series = [name for name in dict.fromkeys(p.series for p in points) if named is None or name in named]
    rest = [p for p in points if p.series not in series]
    if rest:
        label = f"{len({p.series for p in rest})} others"
        axis.plot([p.cost for p in rest], [p.value for p in rest], "o", markersize=4, color=GREY, label=label, zorder=2)
    styles = {name: style_of(i) | ({} if joined else {"linestyle": ""}) for i, name in enumerate(series)}
    for name, style in styles.items():
        own = sorted((p for p in points if p.series == name), key=lambda p: p.cost)
        axis.plot([p.cost for p in own], [p.value for p in own], label=name, linewidth=1.3, zorder=3, **style)
        for p in own:
            if p.low is not None and p.high is not None:
                axis.plot([p.cost] * 2, [p.low, p.high], color=style["color"], linewidth=1, alpha=0.6, zorder=2)
    if real_baseline is not None:
        draw_real_baseline(axis, real_baseline)
    spread_out(axis, "x", [p.cost for p in points])
    spread_out(axis, "y", [*(p.value for p in points), *([] if real_baseline is None else [real_baseline])])
    axis.set_xlabel(xlabel)
    axis.set_ylabel(f"{ylabel} ({better} is better)")
    axis.grid(alpha=0.3, which="both")
    axis.margins(x=0.1, y=0.1)
    legend(axis)
    figure.draw_without_rendering()  # type: ignore[attr-defined]
    known = [p for p in points if p.series in styles]
    order = [*(p for p in front if p.series in styles), *(p for p in known if p not in front)]
    if len({p.label for p in points}) > 1:  # one sampler for all is no news
        write_labels(axis, order, {name: style["color"] for name, style in styles.items()})
    return to_picture(figure)


def spread_out(axis: "Axes", which: Literal["x", "y"], values: Sequence[float]) -> None:
    """A logarithmic axis for values that span more than four times."""
    if min(values) > 0 and max(values) > 4 * min(values):
        log_scale(axis, which, values)


def write_labels(axis: "Axes", points: Sequence[Point], colors: Mapping[str, str]) -> None:
    """A label beside each point where there is room for it; the first have the first choice."""
    from matplotlib.transforms import Bbox

    at = {p: axis.transData.transform((p.cost, p.value)) for p in points}
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in at.values()]
    places = [((8, 0), "left", "center"), ((-8, 0), "right", "center"), ((0, 7), "center", "bottom"),
              ((0, -7), "center", "top")]  # fmt: skip
    for p in points:
        for shift, across, along in places:
            style: Any = {"xytext": shift, "textcoords": "offset points", "ha": across, "va": along, "fontsize": 9}
            label = axis.annotate(p.label, (p.cost, p.value), color=colors[p.series], zorder=4, **style)
            box = label.get_window_extent()
            inside = axis.bbox.contains(*box.min) and axis.bbox.contains(*box.max)
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            label.remove()


# ---- samples ----


def side_by_side(samples: Mapping[str, Tensor], kind: Kind | None = None) -> Image.Image:
    """Samples of several runs that began at the same noise: equal noise stands in one column, or one panel.

    Args:
        samples: (N, C, *S) in the units of the data, by the name of the run; all of one shape.
    """
    first = next(iter(samples.values()))
    samples = {name: as_images(x, kind, like=first) for name, x in samples.items()}
    axes = next(iter(samples.values())).ndim
    if axes == 2:
        return clouds(samples)
    if axes == 3:
        return signals(samples)
    rows = [x[:IN_ROW] for x in samples.values()]
    names = [in_short(name, 40) for name in samples]
    return with_row_names(image_grid(torch.cat(rows), columns=len(rows[0]), least=1000), names)


def how_many(x: Tensor, n: int | None = None) -> str:
    """What a picture of samples (N, C, *S) of a run leaves out, of n in all: ", 4 of 16 shown"."""
    shown = min(len(x), {3: PANELS, 4: IN_ROW, 5: IN_ROW}.get(x.ndim, len(x)))
    return f", {shown:,} of {n or len(x):,} shown" if shown < (n or len(x)) else ""


def signals(samples: Mapping[str, Tensor]) -> Image.Image:
    """One panel a sample, one curve a run."""
    x = next(iter(samples.values()))
    n = min(len(x), PANELS)
    figure, axes = new_figure(6.6, 1.7 * n + 0.5, n, sharex=True)
    for panel, axis in enumerate(axes.flat):
        for i, (name, x) in enumerate(samples.items()):
            style = style_of(i) | {"marker": ""}
            axis.plot(x[panel, 0].cpu(), label=name if panel == 0 else "", linewidth=1.3, alpha=0.85, **style)
        axis.grid(alpha=0.3)
    legend(axes[0, 0])
    return to_picture(figure)


def clouds(samples: Mapping[str, Tensor]) -> Image.Image:
    """One cloud of points a run, on common axes; equal noise has one color, that of its place in the first run."""
    colors = position_colors(next(iter(samples.values())))
    limit = max(limit_of(x) for x in samples.values())
    columns = min(3, len(samples))  # which can still be read on a phone
    rows = -(-len(samples) // columns)
    figure, axes = new_figure(2.6 * columns, 2.8 * rows, rows, columns)
    for axis in axes.flat[len(samples) :]:
        axis.axis("off")
    for axis, (name, x) in zip(axes.flat, samples.items(), strict=False):
        axis.set_title(fill(in_short(name, 60), 30), fontsize=11)
        draw_points(axis, x, colors, limit, labelsize=8)
    return to_picture(figure)

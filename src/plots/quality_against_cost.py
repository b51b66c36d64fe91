"""Sample quality against the cost of sampling, with the Pareto front."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from src.plots.axes import SIZE, draw_real_baseline, legend, log_if_wide, style_of
from src.plots.pictures import GRAY, new_figure, to_picture
from src.statistics.significance import Better

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Point(NamedTuple):
    """An evaluation, by two of its values.

    Attributes:
        series: points of one series have one color, and a line if `joined`.
        label: text beside the point.
        x, y: coordinates, such as cost and quality.
        low, high: ends of the 95 % interval of y, if known.
    """

    series: str
    label: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None


def pareto_front(points: Sequence[tuple[float, float]], better: Better) -> list[int]:
    """The indices of the Pareto-optimal points (cost, value), sorted by cost.

    A point dominates another if it is at least as good in both coordinates and better in one.
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
    """Plot all points with their 95 % intervals, the Pareto front and the real-data baseline.

    Args:
        points: the evaluations.
        xlabel, ylabel: axis labels of cost and value.
        better: the better direction of the value.
        real_baseline: the value of as many real data, if known.
        joined: True to join the points of a series by a line.
        named: series with a color and a name, the others are gray; None for all.
    """
    figure, axes = new_figure(*SIZE)
    axis = axes[0, 0]
    front = [points[i] for i in pareto_front([(p.x, p.y) for p in points], better)]
    band = {"color": GRAY, "linewidth": 8, "alpha": 0.4, "solid_capstyle": "round", "zorder": 1}
    axis.plot([p.x for p in front], [p.y for p in front], label="Pareto front", **band)
    series = [name for name in dict.fromkeys(p.series for p in points) if named is None or name in named]
    rest = [p for p in points if p.series not in series]
    if rest:
        label = f"{len({p.series for p in rest})} others"
        axis.plot([p.x for p in rest], [p.y for p in rest], "o", markersize=4, color=GRAY, label=label, zorder=2)
    styles = {name: style_of(i) | ({} if joined else {"linestyle": ""}) for i, name in enumerate(series)}
    for name, style in styles.items():
        own = sorted((p for p in points if p.series == name), key=lambda p: p.x)
        axis.plot([p.x for p in own], [p.y for p in own], label=name, linewidth=1.3, zorder=3, **style)
        for p in own:
            if p.low is not None and p.high is not None:
                axis.plot([p.x] * 2, [p.low, p.high], color=style["color"], linewidth=1, alpha=0.6, zorder=2)
    if real_baseline is not None:
        draw_real_baseline(axis, real_baseline)
    log_if_wide(axis, "x", [p.x for p in points])
    log_if_wide(axis, "y", [*(p.y for p in points), *([] if real_baseline is None else [real_baseline])])
    axis.set_xlabel(xlabel)
    axis.set_ylabel(f"{ylabel} ({better} is better)")
    axis.grid(alpha=0.3, which="both")
    axis.margins(x=0.1, y=0.1)
    legend(axis)
    figure.draw_without_rendering()  # type: ignore[attr-defined]
    known = [p for p in points if p.series in styles]
    order = [*(p for p in front if p.series in styles), *(p for p in known if p not in front)]
    if len({p.label for p in points}) > 1:  # a single sampler needs no label
        write_labels(axis, order, {name: style["color"] for name, style in styles.items()})
    return to_picture(figure)


def write_labels(axis: "Axes", points: Sequence[Point], colors: Mapping[str, str]) -> None:
    """Write labels beside the points if they fit, in order of priority."""
    from matplotlib.transforms import Bbox

    at = {p: axis.transData.transform((p.x, p.y)) for p in points}
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in at.values()]
    places = [((8, 0), "left", "center"), ((-8, 0), "right", "center"), ((0, 7), "center", "bottom"),
              ((0, -7), "center", "top")]  # fmt: skip
    for p in points:
        for shift, across, along in places:
            style: Any = {"xytext": shift, "textcoords": "offset points", "ha": across, "va": along, "fontsize": 9}
            label = axis.annotate(p.label, (p.x, p.y), color=colors[p.series], zorder=4, **style)
            box = label.get_window_extent()
            inside = axis.bbox.contains(*box.min) and axis.bbox.contains(*box.max)
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            label.remove()

"""The frontier of guidance: what a larger scale gains in one measure, and costs in another."""

from collections.abc import Sequence

from PIL import Image

from src.plots.axes import SIZE, legend, style_of
from src.plots.pictures import new_figure, to_picture
from src.plots.quality_against_cost import Point, write_labels


def guidance_frontier(
    points: Sequence[Point], xlabel: str, ylabel: str, real_baseline: tuple[float, float] | None = None
) -> Image.Image:
    """Plot two measures against each other, with a line for each series in the order of its points.

    Args:
        points: evaluations, those of a series by rising scale, which is the label.
        xlabel, ylabel: axis labels.
        real_baseline: both measures of as many real data, if known.
    """
    figure, axes = new_figure(*SIZE)
    axis = axes[0, 0]
    styles = {name: style_of(i) for i, name in enumerate(dict.fromkeys(p.series for p in points))}
    for name, style in styles.items():
        own = [p for p in points if p.series == name]
        axis.plot([p.x for p in own], [p.y for p in own], label=name, linewidth=1.3, zorder=3, **style)
        for p in own:
            if p.low is not None and p.high is not None:
                axis.plot([p.x] * 2, [p.low, p.high], color=style["color"], linewidth=1, alpha=0.4, zorder=2)
    if real_baseline is not None:
        axis.plot(*real_baseline, "*", color="black", markersize=13, label="real data")
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.grid(alpha=0.3)
    axis.margins(x=0.1, y=0.1)
    legend(axis)
    figure.draw_without_rendering()  # type: ignore[attr-defined]
    write_labels(axis, points, {name: style["color"] for name, style in styles.items()})
    return to_picture(figure)

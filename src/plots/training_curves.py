"""Logged values of several runs over training."""

from collections.abc import Mapping, Sequence
from math import isfinite
from textwrap import fill

from PIL import Image

from src.plots.axes import SIZE, draw_real_baseline, legend, log_scale, style_of
from src.plots.pictures import GRAY, new_figure, to_picture


def training_curves(
    curves: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]],
    xlabel: str,
    ylabel: str,
    real_baseline: float | None = None,
    others: Sequence[tuple[Sequence[float], Sequence[float]]] = (),
) -> Image.Image:
    """Plot a value over training, with one color for each row of the table and one line for each seed.

    Args:
        curves: (x, values) of the runs of each row.
        xlabel, ylabel: axis labels.
        real_baseline: the value of as many real data, if known.
        others: (x, values) of further runs, in gray without a name.
    """
    figure, axes = new_figure(*SIZE)
    axis = axes[0, 0]
    values: list[float] = []
    for j, (x, y) in enumerate(others):
        axis.plot(x, y, label="_" if j else f"{len(others)} others", linewidth=0.7, color=GRAY, alpha=0.6)
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

"""Plots of drift."""

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from src.plots.axes import shorten
from src.plots.pictures import GRAY, ORANGE, new_figure, to_picture


class DriftRow(NamedTuple):
    """A distance with its interval, and the limit below which those of equal data are; `marked` if it is different."""

    name: str
    value: float
    low: float
    high: float
    limit: float
    marked: bool


def distances_beside_limits(rows: Sequence[DriftRow]) -> Image.Image:
    """Draw each distance as a row, relative to its limit."""
    figure, axes = new_figure(7.2, 0.9 + 0.3 * len(rows))
    axis = axes[0, 0]
    for i, row in enumerate(rows):
        scale, color = max(row.limit, 1e-12), ORANGE if row.marked else GRAY
        low, value, high = (max(number, 0) / scale for number in (row.low, row.value, row.high))
        axis.plot([low, high], [i, i], color=color, linewidth=2.2)
        axis.plot(value, i, "o", color=color, markersize=5)
    axis.axvline(1, color="black", linewidth=0.9, linestyle=(0, (4, 3)))
    axis.set_yticks(range(len(rows)), [shorten(row.name, 44) for row in rows], fontsize=9)
    axis.invert_yaxis()
    axis.set_xscale("symlog", linthresh=2)
    axis.set_xlim(left=0)
    axis.set_xlabel("distance / limit of equal data (dashed)", fontsize=9)
    axis.grid(alpha=0.3, axis="x")
    return to_picture(figure)

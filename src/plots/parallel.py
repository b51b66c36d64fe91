"""Settings and results in parallel coordinates."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import log10
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from src.plots.pictures import new_figure, to_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def parallel_coordinates(
    settings: Mapping[str, Sequence[str]],
    title: str,
    values: Sequence[float],
    better: Literal["lower", "higher"] = "lower",
) -> Image.Image:
    """Draw one line per run through its settings to its result, colored by the result; the best are on top.

    Args:
        settings: the values of the runs as text, by key; numbers are placed in proportion, words evenly.
        title: title of the result.
        values: result of each run.
        better: the better direction.
    """
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    columns = [make_ruler(texts) for texts in settings.values()]
    low, high = min(values), max(values)
    heights = [*(c.heights for c in columns), [(v - low) / (high - low) if high > low else 0.5 for v in values]]
    n = len(heights)
    figure, axes = new_figure(max(6.0, 2.1 * n), 4.6)
    axis = axes[0, 0]
    colors = colormaps["viridis"]
    scale = Normalize(low, high) if better != "higher" else Normalize(-high, -low)
    order = sorted(range(len(values)), key=lambda i: values[i], reverse=better != "higher")
    for rank, i in enumerate(order):
        # Lines with a common setting are shifted, so that none hides another.
        shift = 0.012 * (rank - (len(order) - 1) / 2) * min(1.0, 8 / len(order))
        y = [*(h[i] + shift for h in heights[:-1]), heights[-1][i]]
        value = -values[i] if better == "higher" else values[i]
        axis.plot(*smooth(y), color=colors(0.92 * float(scale(value))), linewidth=2.2, alpha=0.9)
    for at, (key, column) in enumerate(zip(settings, columns, strict=True)):
        draw_ruler(axis, at, key, column.ticks)
    ends = {f"{low:.4g}": 0.0, f"{high:.4g}": 1.0} if high > low else {f"{low:.4g}": 0.5}
    draw_ruler(axis, n - 1, title, ends, last=True)
    axis.set(xlim=(-0.4, n - 0.6), ylim=(-0.12, 1.2))
    axis.axis("off")
    return to_picture(figure)


class Ruler(NamedTuple):
    """Positions of the runs on an axis, from 0 to 1, and its tick labels."""

    heights: list[float]
    ticks: dict[str, float]


def make_ruler(texts: Sequence[str]) -> Ruler:
    """Place numbers in proportion, on a log scale if they span more than a factor of five; words evenly."""
    names = list(dict.fromkeys(texts))
    try:
        numbers = {name: float(name) for name in names}
    except ValueError:
        numbers = {name: float(i) for i, name in enumerate(sorted(names))}
    if min(numbers.values()) > 0 and max(numbers.values()) > 5 * min(numbers.values()):
        numbers = {name: log10(value) for name, value in numbers.items()}
    low, high = min(numbers.values()), max(numbers.values())
    ticks = {name: (value - low) / (high - low) if high > low else 0.5 for name, value in numbers.items()}
    return Ruler([ticks[text] for text in texts], ticks)


def smooth(y: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Interpolate (i, y_i) by a smooth curve that is horizontal at every axis, so that the eye can follow it."""
    t = torch.linspace(0, 1, 30, dtype=torch.float64)
    ease = t * t * (3 - 2 * t)
    pieces = [a + (b - a) * ease for a, b in pairwise(y)]
    return torch.cat([i + t for i in range(len(pieces))]), torch.cat(pieces)


def apart(ticks: Mapping[str, float], least: float = 0.06) -> list[str]:
    """Select the tick labels that fit: both ends, and labels between them with enough distance."""
    order = sorted(ticks, key=ticks.__getitem__)
    kept = order[:1]
    for name in order[1:-1]:
        if ticks[name] - ticks[kept[-1]] >= least and ticks[order[-1]] - ticks[name] >= least:
            kept.append(name)
    return kept + order[-1:] if len(order) > 1 else kept


def draw_ruler(axis: "Axes", at: float, title: str, ticks: Mapping[str, float], last: bool = False) -> None:
    """Draw a vertical axis with its title above; labels of the last axis are on its right."""
    away, side = (0.05, "left") if last else (-0.05, "right")
    axis.plot([at, at], [-0.03, 1.03], color="black", linewidth=1)
    axis.text(
        at,
        1.09,
        title.replace(".", ".\n", 1) if len(title) > 16 else title,
        ha="center",
        fontsize=10,
        fontweight="bold",
    )
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}
    written = {ticks[name] for name in apart(ticks)}
    for name, height in ticks.items():
        axis.plot([at - 0.02, at + 0.02], [height, height], color="black", linewidth=1 if height in written else 0.4)
        if height not in written:
            continue
        axis.text(at + away, height, name, ha=side, va="center", fontsize=9, bbox=box)

"""Samples of several runs from the same noise."""

from collections.abc import Mapping
from textwrap import fill

import torch
from PIL import Image
from torch import Tensor

from src.plots.axes import legend, shorten, style_of
from src.plots.fields import as_images
from src.plots.pictures import (
    draw_points,
    frame_of,
    image_grid,
    new_figure,
    position_colors,
    to_picture,
    with_row_names,
)
from src.utils.units import Kind

MAX_IMAGES, MAX_SIGNALS = 16, 4  # samples of one run


def side_by_side(samples: Mapping[str, Tensor], kind: Kind | None = None) -> Image.Image:
    """Draw samples of several runs from the same noise; samples from equal noise share a column or a panel.

    Args:
        samples: (N, C, *S) in the units of the data, by run name, all of one shape.
        kind: kind of the data.
    """
    first = next(iter(samples.values()))
    samples = {name: as_images(x, kind, like=first) for name, x in samples.items()}
    axes = next(iter(samples.values())).ndim
    if axes == 2:
        return clouds_by_run(samples)
    if axes == 3:
        return signal_panels_by_run(samples)
    rows = [x[:MAX_IMAGES] for x in samples.values()]
    names = [shorten(name, 40) for name in samples]
    return with_row_names(image_grid(torch.cat(rows), columns=len(rows[0]), least=1000), names)


def how_many(x: Tensor, n: int | None = None) -> str:
    """The suffix of a caption if not all n samples are shown, such as ", 4 of 16 shown"."""
    shown = min(len(x), {3: MAX_SIGNALS, 4: MAX_IMAGES, 5: MAX_IMAGES}.get(x.ndim, len(x)))
    return f", {shown:,} of {n or len(x):,} shown" if shown < (n or len(x)) else ""


def signal_panels_by_run(samples: Mapping[str, Tensor]) -> Image.Image:
    """Draw signals with one panel per sample and one curve per run."""
    x = next(iter(samples.values()))
    n = min(len(x), MAX_SIGNALS)
    figure, axes = new_figure(6.6, 1.7 * n + 0.5, n, sharex=True)
    for panel, axis in enumerate(axes.flat):
        for i, (name, x) in enumerate(samples.items()):
            style = style_of(i) | {"marker": ""}
            axis.plot(x[panel, 0].cpu(), label=name if panel == 0 else "", linewidth=1.3, alpha=0.85, **style)
        axis.grid(alpha=0.3)
    legend(axes[0, 0])
    return to_picture(figure)


def clouds_by_run(samples: Mapping[str, Tensor]) -> Image.Image:
    """Draw one cloud of points per run, on common axes; colors show the position in the first run."""
    colors = position_colors(next(iter(samples.values())))
    limit = frame_of(torch.cat(list(samples.values())))
    columns = min(3, len(samples))  # legible on a phone
    rows = -(-len(samples) // columns)
    figure, axes = new_figure(2.6 * columns, 2.8 * rows, rows, columns)
    for axis in axes.flat[len(samples) :]:
        axis.axis("off")
    for axis, (name, x) in zip(axes.flat, samples.items(), strict=False):
        axis.set_title(fill(shorten(name, 60), 30), fontsize=11)
        draw_points(axis, x, colors, limit, labelsize=8)
    return to_picture(figure)

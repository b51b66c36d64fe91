"""Inputs, results and ground truths of tasks."""

from typing import Any

from PIL import Image
from torch import Tensor

from src.plots.fields import as_images
from src.plots.pictures import BLUE, GRAY, ORANGE, image_grid, new_figure, sample_grid, to_picture
from src.utils.units import Kind

# Signals (N, C, L), images (N, C, H, W) and volumes (N, C, D, H, W) in a picture, by number of axes.
MAX_COMPARED = {3: 4, 4: 12, 5: 12}
COLORS = {"input": GRAY, "noisy": GRAY, "truth": BLUE, "original": BLUE, "result": ORANGE, "denoised": ORANGE}


def task_results(rows: dict[str, Tensor], kind: Kind | None = None) -> Image.Image:
    """Draw one row of samples per title; signals in one panel per sample with one curve per title.

    Args:
        rows: samples (N, C, *S) in the units of the data, by title; the first few are shown.
        kind: kind of the data.
    """
    like = rows.get("truth", rows.get("original", next(reversed(rows.values()))))
    rows = {name: as_images(x, kind, like) for name, x in rows.items()}
    axes = next(iter(rows.values())).ndim
    if axes not in MAX_COMPARED:
        return sample_grid(next(reversed(rows.values())))
    rows = {name: x[: MAX_COMPARED[axes]] for name, x in rows.items()}
    return (image_rows if axes == 4 else signal_panels)(rows)


def image_rows(rows: dict[str, Tensor]) -> Image.Image:
    """Draw images in rows, with their titles on the left."""
    first = next(iter(rows.values()))
    n, side = len(first), 0.95
    height = side * first.shape[2] / first.shape[3]
    figure, axes = new_figure(0.4 + 0.13 * max(map(len, rows)) + side * n, (height + 0.06) * len(rows), len(rows))
    figure.set_layout_engine("compressed")
    for axis, (name, x) in zip(axes.flat, rows.items(), strict=True):
        axis.imshow(image_grid(x, columns=n, gap=1, least=0), interpolation="nearest")
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=13)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_frame_on(False)
    return to_picture(figure)


def signal_panels(rows: dict[str, Tensor]) -> Image.Image:
    """Draw all signals of one sample in one panel."""
    n = len(next(iter(rows.values())))
    figure, axes = new_figure(8, 1.9 * n + 0.3, n, sharex=True)
    for i, axis in enumerate(axes.flat):
        for name, x in rows.items():
            style: dict[str, Any] = {"color": COLORS.get(name), "linewidth": 0.9 if COLORS.get(name) == GRAY else 1.6}
            axis.plot(x[i, 0].cpu(), label=name, **style)
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=11, loc="upper right")
    return to_picture(figure)


def panels(columns: dict[str, Tensor]) -> Image.Image:
    """Draw one sample (C, *S) per title, side by side on common axes."""
    n = len(columns)
    images = next(iter(columns.values())).ndim == 3
    figure, axes = new_figure(3.4 * n, 3.5 if images else 2.6, 1, n, sharex=True, sharey=True)
    for axis, (name, x) in zip(axes.flat, columns.items(), strict=True):
        axis.set_title(name, fontsize=11)
        if images:
            axis.imshow(image_grid(x[None], columns=1, gap=0, least=0), interpolation="nearest")
            axis.axis("off")
        else:
            axis.plot(x.T.cpu(), color=COLORS.get(name), linewidth=1.4)
            axis.set_xlabel("position", fontsize=9)
            axis.grid(alpha=0.3)
    return to_picture(figure)

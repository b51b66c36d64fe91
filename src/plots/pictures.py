"""Samples as pictures: images in grids, signals as curves. Everything here returns a PIL image."""

from math import ceil, sqrt
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#2b6cb0", "#dd6b20", "#a0aec0"


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **kwargs):  # type: ignore[no-untyped-def]
    """A figure, in inches, drawn without a screen and without pyplot's global state; and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


def to_picture(figure: "Figure") -> Image.Image:
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())  # type: ignore[attr-defined]


def to_pixels(x: Tensor) -> np.ndarray:
    """Images (B, C, H, W) in [0, 1] to uint8 (B, H, W, 3)."""
    pixels = (x.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return pixels.expand(*pixels.shape[:3], 3).cpu().numpy() if pixels.shape[-1] == 1 else pixels.cpu().numpy()


def image_grid(x: Tensor, columns: int | None = None, gap: int = 2, least: int = 640) -> Image.Image:
    """Images (B, C, H, W) in [0, 1] side by side, enlarged by whole factors up to about `least` pixels."""
    pixels = to_pixels(x)
    n, height, width, _ = pixels.shape
    columns = columns or ceil(sqrt(n))
    rows = ceil(n / columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 96, np.uint8)
    for i, tile in enumerate(pixels):
        top, left = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        sheet[top : top + height, left : left + width] = tile
    zoom = max(1, round(least / sheet.shape[1]))
    return Image.fromarray(sheet).resize((sheet.shape[1] * zoom, sheet.shape[0] * zoom), Image.Resampling.NEAREST)


def signal_grid(x: Tensor, columns: int | None = None) -> Image.Image:
    """Signals (B, C, L) as small curves on common axes."""
    n = len(x)
    columns = columns or ceil(sqrt(n))
    rows = ceil(n / columns)
    figure, axes = new_figure(1.9 * columns, 1.3 * rows, rows, columns, sharex=True, sharey=True)
    for axis, signal in zip(axes.flat, x, strict=False):
        axis.plot(signal.T.cpu(), linewidth=1.2)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    for axis in axes.flat[n:]:
        axis.axis("off")
    return to_picture(figure)


def sample_grid(x: Tensor, columns: int | None = None) -> Image.Image:
    """Samples in their own units as one picture."""
    return image_grid(x, columns) if x.ndim == 4 else signal_grid(x, columns)


def denoising_strip(x_0: Tensor, noisy: list[Tensor], denoised: list[Tensor], titles: list[str]) -> Image.Image:
    """Original / noisy / denoised, one column a noise level.

    Args:
        x_0: (B, C, *S), a handful of clean samples.
        noisy, denoised: for each level (B, C, *S).
        titles: for each level, what to write above it.
    """
    if x_0.ndim == 3:
        return signal_strip(x_0, noisy, denoised, titles)
    n = len(x_0)
    names = ["original", *(f"{kind} {title}" for title in titles for kind in ("noisy", "denoised"))]
    rows = [x_0, *(row for pair in zip(noisy, denoised, strict=True) for row in pair)]
    figure, axes = new_figure(1.6 + 0.75 * n, 0.8 * len(rows) * x_0.shape[2] / x_0.shape[3], len(rows))
    for axis, row, name in zip(axes.flat, rows, names, strict=True):
        axis.imshow(image_grid(row, columns=n, gap=1, least=0))
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
    return to_picture(figure)


def signal_strip(x_0: Tensor, noisy: list[Tensor], denoised: list[Tensor], titles: list[str]) -> Image.Image:
    """The same for signals: rows of samples, columns of noise levels, three curves in each."""
    n = min(len(x_0), 4)
    figure, axes = new_figure(2.6 * len(titles), 1.6 * n, n, len(titles), sharex=True)
    for column, title in enumerate(titles):
        axes[0, column].set_title(title, fontsize=9)
        for row in range(n):
            axis = axes[row, column]
            axis.plot(noisy[column][row, 0].cpu(), color=GREY, linewidth=0.8, label="noisy")
            axis.plot(x_0[row, 0].cpu(), color=BLUE, linewidth=1.6, label="original")
            axis.plot(denoised[column][row, 0].cpu(), color=ORANGE, linewidth=1.2, label="denoised")
            axis.tick_params(labelsize=7)
    axes[0, 0].legend(fontsize=7, loc="upper right")
    return to_picture(figure)

"""Original, noisy and denoised samples at several noise levels."""

from PIL import Image
from torch import Tensor

from src.plots.fields import as_images
from src.plots.pictures import (
    BLUE,
    GRAY,
    ORANGE,
    draw_points,
    empty_figure,
    frame_of,
    image_grid,
    new_figure,
    position_colors,
    to_picture,
)
from src.utils.units import Kind


def denoising_strip(
    x_0: Tensor, noisy: list[Tensor], denoised: list[Tensor], titles: list[str], kind: Kind | None = None
) -> Image.Image:
    """Draw original, noisy and denoised samples at several noise levels.

    Args:
        x_0: (B, C, *S), a few clean samples.
        noisy, denoised: (B, C, *S) for each level.
        titles: one for each level.
        kind: kind of the data.
    """
    if x_0.ndim < 4:
        return (point_strip if x_0.ndim == 2 else signal_strip)(x_0, noisy, denoised, titles)
    n = len(x_0)
    names = ["original", *(f"{kind}\n{title}" for title in titles for kind in ("noisy", "denoised"))]
    rows = [x_0, *(row for pair in zip(noisy, denoised, strict=True) for row in pair)]
    x_0, *rows = [as_images(row, kind, like=x_0) for row in [x_0, *rows]]
    figure, axes = new_figure(1.8 + 0.75 * n, 0.8 * len(rows) * x_0.shape[2] / x_0.shape[3], len(rows))
    figure.set_layout_engine("compressed")  # room for the names, and none between images of fixed shape
    for axis, row, name in zip(axes.flat, rows, names, strict=True):
        axis.imshow(image_grid(row, columns=n, gap=1, least=0))
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=min(13, 24 * x_0.shape[2] / x_0.shape[3]))
        axis.set_xticks([])
        axis.set_yticks([])
    return to_picture(figure)


def signal_strip(x_0: Tensor, noisy: list[Tensor], denoised: list[Tensor], titles: list[str]) -> Image.Image:
    """Draw signals: rows of samples, columns of noise levels, three curves in each."""
    n = min(len(x_0), 4)
    figure, axes = new_figure(2.2 * len(titles), 1.6 * n + 0.4, n, len(titles), sharex=True)
    for column, title in enumerate(titles):
        axes[0, column].set_title(title, fontsize=13)
        for row in range(n):
            axis = axes[row, column]
            axis.plot(noisy[column][row, 0].cpu(), color=GRAY, linewidth=0.8, label="noisy")
            axis.plot(x_0[row, 0].cpu(), color=BLUE, linewidth=1.6, label="original")
            axis.plot(denoised[column][row, 0].cpu(), color=ORANGE, linewidth=1.2, label="denoised")
            axis.tick_params(labelsize=10)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=13)
    return to_picture(figure)


def point_strip(x_0: Tensor, noisy: list[Tensor], denoised: list[Tensor], titles: list[str]) -> Image.Image:
    """Draw points: a cloud in each panel, every point colored by its original position."""
    columns = range(len(titles))
    figure = empty_figure(2 * (len(titles) + 2.1), 4.2)
    rows = [["original", *(f"{name} {i}" for i in columns)] for name in ("noisy", "denoised")]
    axes = figure.subplot_mosaic(rows, width_ratios=[2.1, *(1 for _ in columns)])  # type: ignore[arg-type]
    colors = position_colors(x_0)
    panels = {"original": x_0}
    panels |= {f"{name} {i}": x for name, row in (("noisy", noisy), ("denoised", denoised)) for i, x in enumerate(row)}
    for name, x in panels.items():
        draw_points(axes[name], x, colors, frame_of(x if name.startswith("noisy") else x_0), labelsize=7)
    axes["original"].set_title("original", fontsize=13)
    for i, title in enumerate(titles):
        axes[f"noisy {i}"].set_title(title, fontsize=13)
    for name in ("noisy", "denoised"):
        axes[f"{name} 0"].set_ylabel(name, fontsize=13)
    return to_picture(figure)

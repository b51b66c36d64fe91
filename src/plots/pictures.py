"""Samples as PIL images: images and views of volumes in grids, signals as curves, points as clouds."""

from collections.abc import Sequence
from math import ceil, log2, pi, sqrt
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from src.plots.fields import as_tiles, color_limits, slices_of, with_color_bar
from src.utils.atomic import atomic_write
from src.utils.units import Kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GRAY = "#2b6cb0", "#dd6b20", "#a0aec0"
# Samples that one picture shows well, by number of axes: points (B, C), signals (B, C, L), images or fields
# (B, C, H, W), volumes (B, C, D, H, W).
MAX_SHOWN = {2: 5000, 3: 16, 4: 64, 5: 16}
AXIS_LIMIT = 2.5  # for points, whose variance is about one
NEARLY_ZERO = 0.02  # points within it are not seen on these axes
Frame = tuple[tuple[float, float], tuple[float, float]]  # the ends of two axes


def empty_figure(width: float, height: float) -> "Figure":
    """Make a figure, with sizes in inches, without a display and without the global state of pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **kwargs):  # type: ignore[no-untyped-def]
    """Make a figure, with sizes in inches, and its rows and columns of axes."""
    figure = empty_figure(width, height)
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


def to_picture(figure: "Figure") -> Image.Image:
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())  # type: ignore[attr-defined]


def to_pixels(x: Tensor) -> np.ndarray:
    """Convert images (B, C, H, W) in [0, 1] to uint8 (B, H, W, 3)."""
    pixels = (x.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return pixels.expand(*pixels.shape[:3], 3).cpu().numpy() if pixels.shape[-1] == 1 else pixels.cpu().numpy()


def image_grid(x: Tensor, columns: int | None = None, gap: int = 2, least: int = 640) -> Image.Image:
    """Arrange images (B, C, H, W) in [0, 1] in a grid, enlarged by an integer factor to about `least` pixels."""
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


def with_row_names(picture: Image.Image, names: Sequence[str]) -> Image.Image:
    """Add a name to the left of each row of a grid."""
    height = picture.height / len(names)
    font = ImageFont.load_default(min(20, height / 2))
    margin = ceil(max(font.getlength(name) for name in names)) + 16
    named = Image.new("RGB", (margin + picture.width, picture.height), "white")
    named.paste(picture, (margin, 0))
    for row, name in enumerate(names):
        ImageDraw.Draw(named).text((margin - 8, (row + 0.5) * height), name, "black", font, anchor="rm")
    return named


def signal_grid(x: Tensor, columns: int | None = None) -> Image.Image:
    """Draw signals (B, C, L) as small curves on common axes."""
    return signal_frames(x[None], columns)[0]


def signal_frames(path: Tensor, columns: int | None = None) -> list[Image.Image]:
    """Draw signals (T, B, C, L) as T frames, on axes that fit them all."""
    x = path[0]
    n = len(x)
    columns = columns or ceil(sqrt(n))
    rows = ceil(n / columns)
    figure, axes = new_figure(1.9 * columns, 1.3 * rows, rows, columns, sharex=True, sharey=True)
    lines = []
    for axis, signal in zip(axes.flat, x, strict=False):
        lines.append(axis.plot(signal.T.cpu(), linewidth=1.2))
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    for axis in axes.flat[n:]:
        axis.axis("off")
    if len(path) > 1:
        low, high = path.min().item(), path.max().item()
        axes[0, 0].set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    frames = [to_picture(figure)]
    figure.set_layout_engine("none")  # keep the layout, which takes most of the time to compute
    for x in path[1:]:
        for curves, signal in zip(lines, x, strict=True):
            for curve, channel in zip(curves, signal, strict=True):
                curve.set_ydata(channel.cpu())
        frames.append(to_picture(figure))
    return frames


def point_cloud(
    x: Tensor, label: Tensor | None = None, limit: float | Frame | None = None, side: float = 6
) -> Image.Image:
    """Draw points (B, C), colored by their labels (B,) if given, with a note on points outside the axes.

    Args:
        x: the points.
        label: their labels.
        limit: largest coordinate shown, or the ends of the axes; by default `frame_of(x)`.
        side: side of the picture in inches.
    """
    figure, axes = new_figure(side, side)
    ends = draw_points(axes[0, 0], x, BLUE if label is None else label_colors(label), limit).T
    outside = int((~((to_xy(x) >= ends[0]) & (to_xy(x) <= ends[1])).all(1)).sum())
    if outside:  # inside the axes, so that these do not move in animations
        style: Any = {"fontsize": 8, "color": "dimgrey", "bbox": {"color": "white", "alpha": 0.8, "pad": 2}}
        note = f"{outside:,} of {len(x):,} points outside"
        axes[0, 0].text(0.985, 0.985, note, ha="right", va="top", transform=axes[0, 0].transAxes, **style)
    return to_picture(figure)


def sample_grid(
    x: Tensor,
    columns: int | None = None,
    label: Tensor | None = None,
    names: Sequence[str] | None = None,
    kind: Kind | None = None,
) -> Image.Image:
    """Draw samples in their own units; labels (B,) color points, names are beside the rows of images."""
    if x.ndim == 2:
        return point_cloud(x, label)
    if x.ndim == 3:
        return signal_grid(x, columns)
    tiles = as_tiles(x, kind)
    grid = image_grid(tiles, columns)
    grid = with_row_names(grid, names) if names else grid
    return grid if tiles is x else with_color_bar(grid, color_limits(x))


def trajectory_frames(
    path: Tensor, label: Tensor | None = None, frames: int = 40, kind: Kind | None = None
) -> list[Image.Image]:
    """Draw the trajectories (T, B, C, *S) of samples in at most `frames` frames, in their own units, on common axes."""
    most = MAX_SHOWN[path.ndim - 1]
    path, label = path[:, :most], None if label is None else label[:most]
    path = path[torch.linspace(0, len(path) - 1, min(frames, len(path))).round().long()]
    if path.ndim == 4:
        return signal_frames(path)
    if path.ndim == 3:
        limit = frame_of(path[-1])
        return [point_cloud(x, label, limit, side=4.8) for x in path]
    return [image_grid(as_tiles(x, kind, like=path[-1]), least=420) for x in path]


def slice_frames(x: Tensor) -> list[Image.Image]:
    """Draw volumes (B, C, D, H, W) slice by slice along D, one frame each: the frames of a video in time."""
    return [image_grid(images, least=420) for images in slices_of(x)]


def write_picture(picture: Image.Image, file: Path) -> None:
    """Write a picture to a file atomically."""
    with atomic_write(file) as partial:
        picture.save(partial)


def write_gif(pictures: list[Image.Image], file: Path | IO[bytes], frame: int = 60, pause: int = 1500) -> None:
    """Write an animation with `frame` milliseconds for each picture, and `pause` for the last."""
    durations = [frame] * (len(pictures) - 1) + [pause]
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)


# ---- points ----


def draw_points(
    axis: "Axes", x: Tensor, colors: Any, limit: float | Frame | None = None, labelsize: float = 9
) -> np.ndarray:
    """Draw points (B, C) as translucent markers, smaller if there are more; returns the ends (2, 2) of the axes."""
    limit = limit or frame_of(x)
    size, alpha = marker_size(len(x), axis.bbox.width)
    u, v = to_xy(x).T
    axis.scatter(u, v, s=size, c=colors, alpha=alpha, linewidths=0)
    ends: Any = limit if isinstance(limit, tuple) else ((-limit, limit), (-limit, limit))
    axis.set(xlim=ends[0], ylim=ends[1], axisbelow=True)
    if ends[0] == ends[1]:
        ticks = [0.4 * ends[0][1] * i for i in (-2, -1, 0, 1, 2)]
        axis.set(xticks=ticks, yticks=ticks, aspect="equal")
    axis.tick_params(labelsize=labelsize)
    axis.grid(alpha=0.3)
    return np.array(ends)


def marker_size(n: int, pixels: float) -> tuple[float, float]:
    """The area in square points and the opacity of n markers in a panel of this width in pixels."""
    return min(30.0, max(1.0, pixels**2 / 14 / n)), min(0.7, max(0.1, 22 / sqrt(n)))


def to_xy(x: Tensor) -> np.ndarray:
    """The first two coordinates (B, 2) of points (B, C); a missing second one is 0."""
    shown = x.detach().float().cpu()[:, :2]
    return torch.nn.functional.pad(shown, (0, 2 - shown.shape[1])).numpy()


def limit_of(x: Tensor) -> float:
    """The axis limit for points (B, C): 2.5, for comparable pictures, doubled until 95 % are inside.

    98 % of standard normal noise is within 2.5.
    """
    reach = np.abs(to_xy(x)).max(1)
    reach = np.sort(reach[np.isfinite(reach)])
    needed = reach[ceil(0.95 * len(reach)) - 1] if len(reach) else 0.0
    return AXIS_LIMIT * 2 ** max(0, ceil(log2(needed / AXIS_LIMIT))) if needed > 0 else AXIS_LIMIT


def frame_of(x: Tensor) -> Frame:
    """The ends of the axes for points (B, C): symmetric for points of about unit variance, else a box about them."""
    limit, xy = limit_of(x), to_xy(x)
    xy = xy[np.isfinite(xy).all(1)]
    low, high = np.quantile(xy, [0.025, 0.975], axis=0) if len(xy) else np.zeros((2, 2))
    width = high - low
    near = limit == AXIS_LIMIT and max(abs(low).max(), abs(high).max()) > NEARLY_ZERO
    if near or ((width >= limit / 4) | (width == 0)).all():
        return (-limit, limit), (-limit, limit)
    margin = np.where(width > 0, 0.3 * width, 1.0)
    (a, c), (b, d) = low - margin, high + margin
    return (float(a), float(b)), (float(c), float(d))


def label_colors(label: Tensor) -> np.ndarray:
    """A color (B, 4) for each label (B,), repeated after ten."""
    from matplotlib import colormaps

    return colormaps["tab10"](label.cpu().numpy() % 10)


def position_colors(x: Tensor) -> np.ndarray:
    """A color (B, 3) for each point (B, C), with the direction from the center as hue."""
    from matplotlib.colors import hsv_to_rgb

    u, v = (to_xy(x) - to_xy(x).mean(0)).T
    hue = np.arctan2(v, u) / (2 * pi) % 1
    return hsv_to_rgb(np.stack([hue, np.full_like(hue, 0.8), np.full_like(hue, 0.85)], 1))

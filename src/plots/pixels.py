"""Plots of the statistics of elements: pixels of images, points of signals, cells of fields and volumes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from src.plots.metrics import STYLES
from src.plots.pictures import BLUE, ORANGE, new_figure, to_picture
from src.statistics.power_spectrum import MIN_POWER, radial
from src.utils.units import Kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ORANGE, BLUE  # samples, data
ROWS = "mean", "standard deviation"


def element_maps(maps: Mapping[str, tuple[Tensor, Tensor]], kind: Kind) -> Image.Image:
    """Draw the mean and the standard deviation (C, *S) of each element, of samples and data, and their difference."""
    if kind == "signals":
        return element_curves(maps)
    (ours, theirs), panels = maps.values(), len(maps) + 1
    figure, axes = new_figure(3.1 * panels, 5.4, 2, panels)
    for row, (title, a, b) in enumerate(zip(ROWS, ours, theirs, strict=True)):
        a, b = as_map(a), as_map(b)
        low, high = min(a.min(), b.min()).item(), max(a.max(), b.max()).item()
        for axis, name, x in zip(axes[row], maps, (a, b), strict=False):
            show(axis, f"{title}, {name}", x, low, high, "viridis")
        reach = max((a - b).abs().max().item(), 1e-12)
        show(axes[row, -1], f"{title}, difference", a - b, -reach, reach, "RdBu_r")
    return to_picture(figure)


def as_map(x: Tensor) -> Tensor:
    """Values (h, w) to draw of (C, *S): the channels side by side, of volumes their middle slices across D."""
    if x.ndim == 4:
        x = x[:, x.shape[1] // 2]
    return x.transpose(0, 1).flatten(1).float()


def show(axis: "Axes", title: str, x: Tensor, low: float, high: float, colors: str) -> None:
    """Draw values (h, w) with a color scale."""
    image = axis.imshow(x, vmin=low, vmax=high if high > low else low + 1, cmap=colors)
    axis.set_title(title, fontsize=9)
    axis.set(xticks=[], yticks=[])
    axis.figure.colorbar(image, ax=axis, shrink=0.8).ax.tick_params(labelsize=7)


def element_curves(maps: Mapping[str, tuple[Tensor, Tensor]]) -> Image.Image:
    """Draw the mean and the standard deviation (C, L) of each point of signals, one panel for each channel."""
    channels = len(next(iter(maps.values()))[0])
    shown = min(channels, 4)
    figure, axes = new_figure(4.2 * shown, 3.4, 1, shown)
    for channel, axis in enumerate(axes[0]):
        for (name, (mean, std)), color in zip(maps.items(), COLORS, strict=True):
            axis.plot(mean[channel], color=color, linewidth=1.4, label=f"mean, {name}")
            axis.plot(std[channel], color=color, linewidth=1.4, linestyle="--", label=f"standard deviation, {name}")
        axis.set(xlabel="position", title=f"channel {channel}" if channels > 1 else "")
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("units of the data")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8)
    return to_picture(figure)


def distributions(
    curves: Mapping[str, tuple[Tensor, Tensor]], ends: tuple[Sequence[float], Sequence[float]]
) -> Image.Image:
    """Draw histograms, and power spectra by the norm of the frequency, of samples and data.

    Args:
        curves: by name, the share (258,) of the values below, in steps of 8 bits within and above the range, and the
            power (*S) of each frequency.
        ends: the ends of the range of each channel.
    """
    figure, axes = new_figure(9, 3.6, 1, 2)
    low, high = (end[0] if len({*end}) == 1 else unit for end, unit in zip(ends, (0.0, 1.0), strict=True))
    peak = 0.0
    for (name, (histogram, power)), style in zip(curves.items(), STYLES[:2], strict=True):
        values = torch.linspace(low, high, len(histogram) - 2)
        values = torch.cat([2 * values[:1] - values[1:2], values, 2 * values[-1:] - values[-2:-1]])
        line = {"color": style["color"], "linewidth": 1.2, "label": name}
        axes[0, 0].step(values, 100 * histogram, where="mid", **line)
        frequency, spectrum = radial(power)
        axes[0, 1].plot(frequency[1:], spectrum[1:], marker="o", markersize=3, **line)
        peak = max(peak, spectrum[1:].max().item())
    ranges = "value (units of the data)" if len({*ends[0]}) == len({*ends[1]}) == 1 else "value (fraction of the range)"
    axes[0, 0].set(yscale="log", xlabel=ranges, ylabel="share (%)")
    axes[0, 1].set(
        yscale="log", xlabel="frequency (cycles per element)", ylabel="power (fraction of the range, squared)"
    )
    axes[0, 1].set_ylim(bottom=max(axes[0, 1].get_ylim()[0], MIN_POWER * peak))
    for axis in axes[0]:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=9)
    return to_picture(figure)

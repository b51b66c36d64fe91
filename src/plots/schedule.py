"""A noise schedule: alpha, sigma and log-SNR over t, with noised data below."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from src.diffusion.schedules import Schedule
from src.plots.fields import as_images
from src.plots.pictures import (
    AXIS_LIMIT,
    BLUE,
    ORANGE,
    image_grid,
    marker_size,
    new_figure,
    position_colors,
    to_picture,
    to_xy,
)
from src.utils.units import Kind, Units, units_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def schedule_picture(
    schedule: Schedule,
    x_0: Tensor,
    noise: Tensor,
    columns: int = 11,
    kind: Kind | None = None,
    units: Units | None = None,
) -> Image.Image:
    """Draw the schedule, and x_0 noised at `columns` times: a sample (1, C, *S) or points (B, C)."""
    t = torch.linspace(0, 1, 400, dtype=torch.float64)
    alpha, sigma = schedule.alpha_sigma(t)
    figure, axes = new_figure(10, 5.2, 3, 1, height_ratios=[3, 3, 1.5])
    axes[0, 0].plot(t, alpha, color=BLUE, label=r"$\alpha_t$")
    axes[0, 0].plot(t, sigma, color=ORANGE, label=r"$\sigma_t$")
    axes[0, 0].legend()
    axes[1, 0].plot(t[1:], schedule.log_snr(t)[1:], color=BLUE)
    axes[1, 0].axhline(0, color="black", linewidth=0.5)
    axes[1, 0].set_ylabel(r"log-SNR $\lambda_t$")
    axes[1, 0].set_xlabel("t  (0 = data, 1 = noise)")
    for axis in axes[:2, 0]:
        axis.set_xlim(-0.5 / columns, 1 + 0.5 / columns)
        axis.grid(alpha=0.3)
    times = torch.linspace(0, 1, columns, dtype=torch.float64)
    noised = [schedule.add_noise(x_0, s, noise) for s in times]
    if x_0.ndim < 4:
        (draw_clouds if x_0.ndim == 2 else draw_signals)(axes[2, 0], noised)
    else:
        units = units or units_of(kind or "images")
        shown = [units.to_units(x) for x in noised]
        draw_images(axes[2, 0], [as_images(x, kind, like=shown[0]) for x in shown])
    return to_picture(figure)


def draw_images(axis: "Axes", images: list[Tensor]) -> None:
    """Draw images (1, C, H, W) in [0, 1] side by side."""
    axis.imshow(image_grid(torch.cat(images), columns=len(images), gap=1, least=0), aspect="auto")
    axis.axis("off")


def draw_signals(axis: "Axes", signals: list[Tensor]) -> None:
    """Draw the first channels of signals (1, C, L) side by side on one scale."""
    for i, signal in enumerate(signals):
        u = torch.linspace(i + 0.05, i + 0.95, signal.shape[-1])
        axis.plot(u, signal[0, 0].cpu(), linewidth=0.6, color=BLUE)
    axis.set_xlim(0, len(signals))
    axis.set_xticks([])


def draw_clouds(axis: "Axes", clouds: list[Tensor]) -> None:
    """Draw points (B, C) side by side, colored by their position in the first cloud; wide clouds are scaled down."""
    colors = position_colors(clouds[0])
    size, alpha = marker_size(len(clouds[0]), axis.bbox.width / len(clouds))
    for i, cloud in enumerate(clouds):
        points = to_xy(cloud)
        u, v = points.T / (AXIS_LIMIT * max(1.0, np.sqrt((points**2).mean())))
        inside = np.maximum(abs(u), abs(v)) <= 1
        axis.scatter(i + (1 + u[inside]) / 2, v[inside], s=size, c=colors[inside], alpha=alpha, linewidths=0)
    axis.set(xlim=(0, len(clouds)), ylim=(-1, 1))
    axis.axis("off")

"""A schedule as a picture: alpha, sigma and log-SNR over t, with the noised data under them."""

import torch
from PIL import Image
from torch import Tensor

from src.diffusion.schedules import Schedule
from src.plots.pictures import BLUE, ORANGE, image_grid, new_figure, to_picture


def schedule_picture(schedule: Schedule, x_0: Tensor, noise: Tensor, columns: int = 11) -> Image.Image:
    """Draw the schedule, and one sample x_0 (1, C, *S) in [-1, 1] at `columns` times from 0 to 1."""
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
    noised = torch.cat([schedule.add_noise(x_0, s, noise) for s in torch.linspace(0, 1, columns, dtype=torch.float64)])
    last = axes[2, 0]
    if x_0.ndim == 4:
        last.imshow(image_grid((noised.clamp(-1, 1) + 1) / 2, columns=columns, gap=1, least=0), aspect="auto")
        last.axis("off")
    else:
        length = noised.shape[-1]
        for i, signal in enumerate(noised):
            last.plot(torch.linspace(i + 0.05, i + 0.95, length), signal[0].cpu(), linewidth=0.6, color=BLUE)
        last.set_xlim(0, columns)
        last.set_xticks([])
    return to_picture(figure)

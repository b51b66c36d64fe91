"""Fields and volumes as color images, for the plots of images."""

import numpy as np
import torch
from torch import Tensor

from src.utils.units import Kind

MAX_VALUES = 1_000_000  # for the estimate of the color limits
OUTLIERS = 0.005  # fraction of the values that may lie beyond each limit


def as_images(x: Tensor, kind: Kind | None = None, like: Tensor | None = None) -> Tensor:
    """Convert fields and volumes to images in [0, 1]; images of 1 or 3 channels, signals and points are unchanged.

    The channels of a field (B, C, H, W) are placed side by side, (B, 3, H, C W); those of a volume (B, C, D, H, W) by
    their middle slices. If the values have both signs, negative ones are blue and positive ones red.

    Args:
        kind: kind of x; by default images if it has two axes.
        like: samples that determine the color limits, so that several pictures share them; by default x.
    """
    if x.ndim < 4 or (x.ndim == 4 and kind in (None, "images") and x.shape[1] in (1, 3)):
        return x
    from matplotlib import colormaps

    low, high = color_limits(x if like is None else like)
    if x.ndim == 5:
        x = x[:, :, x.shape[2] // 2]
    values = ((x.float() - low) / (high - low)).clamp(0, 1).transpose(1, 2).flatten(2)  # (B, H, C W)
    colors = colormaps["RdBu_r" if low < 0 < high else "viridis"](values.nan_to_num().cpu().numpy())[..., :3]
    return torch.from_numpy(colors).float().permute(0, 3, 1, 2)


def color_limits(x: Tensor) -> tuple[float, float]:
    """The limits of 99 % of the finite values, symmetric if the values have both signs."""
    numbers = x.detach().float().flatten()
    numbers = numbers[numbers.isfinite()]
    if not len(numbers):
        return 0.0, 1.0
    some = numbers[:: max(1, len(numbers) // MAX_VALUES)].cpu().numpy()
    low, high = (float(v) for v in np.quantile(some, (OUTLIERS, 1 - OUTLIERS)))
    if low < 0 < high:
        high = max(-low, high)
        low = -high
    return (low, high) if low < high else (low - 0.5, high + 0.5)

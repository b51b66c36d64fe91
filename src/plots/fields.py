"""Fields and volumes as color images, for the plots of images."""

from math import ceil

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from src.utils.units import Kind

MAX_VALUES = 1_000_000  # for the estimate of the color limits
OUTLIERS = 0.005  # fraction of the values that may lie beyond each limit
GRAY = 96 / 255  # between the views of a volume
MAX_SLICES = 64  # frames of an animation
HOW_TO_READ_VIEWS = (
    "Of each volume: its middle slices across D, H and W, and below them its projections along these axes, which show "
    "the largest value on each line of sight (in magnitude, if the values have both signs)."
)


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
    limits = color_limits(x if like is None else like)
    if x.ndim == 5:
        x = x[:, :, x.shape[2] // 2]
    return colored(x.transpose(1, 2).flatten(2), limits)


def as_tiles(x: Tensor, kind: Kind | None = None, like: Tensor | None = None) -> Tensor:
    """Convert as :func:`as_images` does, but show more of a volume: see :func:`volume_views`."""
    return volume_views(x, like) if x.ndim == 5 else as_images(x, kind, like)


def volume_views(x: Tensor, like: Tensor | None = None) -> Tensor:
    """Draw the three middle slices of volumes (B, C, D, H, W), above their projections: images (B, 3, h, w) in [0, 1].

    Slices and projections are those across the axes D, H and W, from left to right, for one channel below the other.

    Args:
        x: the volumes.
        like: samples that determine the color limits; by default x.
    """
    limits = color_limits(x if like is None else like)
    rows = []
    for channel in x.unbind(1):
        slices = [channel.select(axis, channel.shape[axis] // 2) for axis in (1, 2, 3)]
        projections = [project(channel, axis, signed=limits[0] < 0 < limits[1]) for axis in (1, 2, 3)]
        rows += [[colored(view, limits) for view in views] for views in (slices, projections)]
    gap = 1
    height = max(view.shape[2] for view in rows[0])
    width = sum(view.shape[3] + gap for view in rows[0]) - gap
    sheet = torch.full((len(x), 3, len(rows) * (height + gap) - gap, width), GRAY)
    for i, views in enumerate(rows):
        left = 0
        for view in views:
            sheet[:, :, i * (height + gap) :, left:][:, :, : view.shape[2], : view.shape[3]] = view
            left += view.shape[3] + gap
    return sheet


def project(x: Tensor, axis: int, signed: bool) -> Tensor:
    """The largest values of x along an axis, in magnitude if they have both signs."""
    return x.gather(axis, (x.abs() if signed else x).argmax(axis, keepdim=True)).squeeze(axis)


def slices_of(x: Tensor) -> list[Tensor]:
    """The slices of volumes (B, C, D, H, W) along D, at most 64 of them, as images (B, 3, H, C W) in [0, 1]."""
    rows = torch.linspace(0, x.shape[2] - 1, min(MAX_SLICES, x.shape[2])).round().long()
    return [as_images(x[:, :, i], "fields", like=x) for i in rows]


def colored(values: Tensor, limits: tuple[float, float]) -> Tensor:
    """Color values (B, h, w), between limits, as images (B, 3, h, w) in [0, 1]."""
    from matplotlib import colormaps

    low, high = limits
    unit = ((values.float() - low) / (high - low)).clamp(0, 1).nan_to_num().cpu().numpy()
    colors = colormaps["RdBu_r" if low < 0 < high else "viridis"](unit)[..., :3]
    return torch.from_numpy(colors).float().permute(0, 3, 1, 2)


def with_color_bar(picture: Image.Image, limits: tuple[float, float]) -> Image.Image:
    """Add a color bar to the right of a picture, with the values of its ends and of its middle."""
    height, font = min(picture.height, 320), ImageFont.load_default(14)
    ramp = torch.linspace(limits[1], limits[0], height)[None, :, None].expand(1, height, 16)
    bar = Image.fromarray((colored(ramp, limits)[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
    texts = [f"{value:.3g}" for value in (limits[1], sum(limits) / 2, limits[0])]
    margin = 36 + ceil(max(font.getlength(text) for text in texts))
    wide = Image.new("RGB", (picture.width + margin, picture.height), "white")
    wide.paste(picture, (0, 0))
    wide.paste(bar, (picture.width + 8, 0))
    for text, place, anchor in zip(texts, (0, height / 2, height - 1), ("la", "lm", "ld"), strict=True):
        ImageDraw.Draw(wide).text((picture.width + 30, place), text, "black", font, anchor=anchor)
    return wide


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

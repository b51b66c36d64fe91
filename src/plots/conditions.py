"""Samples with their conditions: words above each, and an image beside it."""

from collections.abc import Mapping, Sequence
from math import ceil, sqrt
from textwrap import fill

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from src.diffusion.conditions import Cond, Condition, Measured, class_of
from src.diffusion.conditions import Image as Pictured
from src.plots.fields import as_tiles
from src.plots.pictures import BLUE, GRAY, image_grid, new_figure, to_picture
from src.utils.units import Kind, Units

# Samples shown, by the number of axes of a batch.
MAX_TILES = {3: 16, 4: 36, 5: 16}
LETTERS = 24  # in a line of words


def words_and_image(
    condition: Condition, cond: Cond | None, units: Units, names: Mapping[str, Sequence[str]]
) -> tuple[list[str] | None, Tensor | None]:
    """Words for the condition of each sample, and its image in the units of the data; classes alone need no words.

    Args:
        condition: of the denoiser.
        cond: the conditions of the samples.
        units: of the data.
        names: see `Condition.captions`.
    """
    if cond is None or class_of(cond) is cond or not condition.members:
        return None, None
    values = cond if isinstance(cond, dict) else {condition.name: cond}
    pictured = {name: part for name, part in condition.members.items() if isinstance(part, Pictured) and name in values}
    image = None
    if pictured:
        name, part = next(iter(pictured.items()))
        fits = isinstance(part, Measured) and part.in_data_units and len(units.scale) in (1, values[name].shape[1])
        image = units.to_units(values[name]) if fits else values[name]
    return condition.captions(cond, names), image


def conditioned_grid(
    x: Tensor, captions: Sequence[str] | None = None, image: Tensor | None = None, kind: Kind | None = None
) -> Image.Image:
    """Draw samples (B, C, *S) that are no points, each with its condition.

    Args:
        x: the samples, in the units of the data.
        captions: words above each sample.
        image: (B, C', *S'), an image or signal of each in the same units, drawn to the left of the sample, of signals
            behind it; NaN where it is unknown.
        kind: kind of the data.
    """
    n = min(len(x), MAX_TILES[x.ndim])
    columns = ceil(sqrt(n))
    rows = ceil(n / columns)
    width = 1.9 if x.ndim == 3 else 1.25 * (1 if image is None else 2)
    figure, axes = new_figure(width * columns, 1.5 * rows, rows, columns, sharex=True, sharey=True)
    x = x[:n].cpu()
    if image is not None and image.shape[2:] != x.shape[2:]:
        image = F.interpolate(image[:n].float(), x.shape[2:], mode="nearest")
    tiles = [] if x.ndim == 3 else beside_condition(x, image, kind)
    for i, axis in enumerate(axes.flat):
        if i >= n or x.ndim > 3:
            axis.axis("off")
        if i < n and x.ndim == 3:
            if image is not None:
                axis.plot(image[i].T.cpu(), color=GRAY, linewidth=3)
            axis.plot(x[i].T, color=BLUE if x.shape[1] == 1 else None, linewidth=1.2)
            axis.tick_params(labelsize=7)
            axis.grid(alpha=0.3)
        elif i < n:
            axis.imshow(tiles[i], interpolation="nearest")
        if i < n and captions is not None:
            axis.set_title(fill(captions[i], LETTERS), fontsize=7)
    return to_picture(figure)


def beside_condition(x: Tensor, image: Tensor | None, kind: Kind | None) -> list[Image.Image]:
    """A tile for each sample, to the right of its image if there is one."""
    parts = [as_tiles(x, kind)]
    if image is not None:
        image = image[: len(x)].cpu().nan_to_num(x.min().item())
        shown = image if image.shape[1] in (1, x.shape[1]) else image.mean(1, keepdim=True)
        parts.insert(0, as_tiles(shown.expand(-1, x.shape[1], *x.shape[2:]), kind, like=x))
    return [image_grid(torch.stack([part[i] for part in parts]), len(parts), 1, least=0) for i in range(len(x))]

"""The pictures of a race."""

from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from src.plots.pictures import BLUE, GRAY, ORANGE, image_grid, new_figure, to_picture


def curves(found: dict[str, Any], ours: str) -> Image.Image:
    """Distance against time: ours along its run, the others at its end."""
    figure, ((axes,),) = new_figure(8, 4.5)
    one, seconds = found["contenders"][ours], 60 * found["minutes"]
    points = [
        *one["kept"].values(),
        {"seconds": one["train_s"], **{k: one[k] for k in ("frechet", "frechet_interval")}},
    ]
    axes.plot([p["seconds"] for p in points], [p["frechet"] for p in points], "o-", color=BLUE, label=ours)
    for (name, peer), mark in zip(((n, c) for n, c in found["contenders"].items() if n != ours), "sD", strict=False):
        axes.plot([seconds], [peer["frechet"]], mark, color=ORANGE, label=name)
        axes.axhline(peer["frechet"], color=ORANGE, linewidth=0.7, linestyle=":")
    axes.axhline(found["real_baseline"]["frechet"], color=GRAY, linestyle="--", label="as many real images")
    axes.set(xscale="log", yscale="log", xlabel="seconds since the start of the process, imports included")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set(ylabel=f"Fréchet distance of {found['samples']} samples")
    ticks = [
        t for t in (10, 20, 40, 60, 120, 240, 360, 600, 1200, 3600) if points[0]["seconds"] * 0.8 <= t <= seconds * 1.2
    ]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
    return to_picture(figure)


def grids(samples: dict[str, Tensor]) -> Image.Image:
    """Samples of each side by side, under its name."""
    tiles = {name: image_grid(x, columns=8, least=400) for name, x in samples.items()}
    gap, top = 12, 24
    width = sum(t.width for t in tiles.values()) + gap * (len(tiles) - 1)
    sheet = Image.new("RGB", (width, top + max(t.height for t in tiles.values())), "white")
    pen, left = ImageDraw.Draw(sheet), 0
    for name, tile in tiles.items():
        pen.text((left + 2, 3), name, fill="black", font=ImageFont.load_default(15))
        sheet.paste(tile, (left, top))
        left += tile.width + gap
    return sheet

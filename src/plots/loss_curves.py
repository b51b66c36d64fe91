"""The loss curves of a run."""

from collections.abc import Mapping, Sequence

from PIL import Image

from src.plots.pictures import BLUE, GRAY, ORANGE, new_figure, to_picture


def loss_curves(rows: Sequence[Mapping[str, float]]) -> Image.Image:
    """Plot the training loss and both validation losses against the optimizer step, from rows of metrics.csv."""
    figure, axes = new_figure(9, 5)
    axis = axes[0, 0]
    series = [
        ("train/loss", "training", GRAY, "-", 1.0),
        ("val/loss_raw", "validation, raw weights", ORANGE, "o-", 1.5),
        ("val/loss_ema", "validation, averaged weights", BLUE, "o-", 1.5),
    ]
    values = []
    for key, label, color, style, width in series:
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            axis.plot(*zip(*points, strict=True), style, color=color, label=label, linewidth=width, markersize=4)
            values += [value for _, value in points]
    if values and min(values) > 0:
        axis.set_yscale("log")
    axis.set_xlabel("optimizer step")
    axis.set_ylabel("loss")
    axis.grid(alpha=0.3, which="both")
    if values:
        axis.legend()
    return to_picture(figure)

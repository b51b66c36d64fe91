"""The loss curves of a run."""

from collections.abc import Mapping, Sequence

from PIL import Image

from src.plots.pictures import BLUE, GRAY, ORANGE, new_figure, to_picture

# (key, label, color, style, width) of the curves of each panel, by its title.
PANELS = {
    "same times, noise and weights:\na growing gap is over-fitting": [
        ("val/loss_raw", "validation data, raw weights", GRAY, "o-", 1.0),
        ("train/loss_ema", "training data, averaged weights", ORANGE, "o-", 1.5),
        ("val/loss_ema", "validation data, averaged weights", BLUE, "o-", 1.5),
    ],
    "objective of the training:\nits own times, dropout and augmentation": [
        ("train/loss", "training steps", GRAY, "-", 1.0),
    ],
}


def loss_curves(rows: Sequence[Mapping[str, float]]) -> Image.Image:
    """Plot losses against the optimizer step, from rows of metrics.csv.

    On the left, those of training and validation data that can be compared; on the right, what the optimizer lowers.
    """
    figure, axes = new_figure(9, 5, 1, 2, sharey=True, gridspec_kw={"width_ratios": [3, 2]})
    values = []
    for axis, (title, series) in zip(axes[0], PANELS.items(), strict=True):
        for key, label, color, style, width in series:
            points = [(row["step"], row[key]) for row in rows if key in row]
            if points:
                axis.plot(*zip(*points, strict=True), style, color=color, label=label, linewidth=width, markersize=4)
                values += [value for _, value in points]
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("optimizer step")
        axis.grid(alpha=0.3, which="both")
        if axis.lines:
            axis.legend(fontsize=9)
    if values and min(values) > 0:
        axes[0, 0].set_yscale("log")
    axes[0, 0].set_ylabel("loss")
    return to_picture(figure)

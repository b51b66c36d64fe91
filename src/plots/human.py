"""The page of the human evaluation, and a plot of its results."""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from src.plots.pictures import BLUE, GRAY, image_grid, new_figure, to_picture
from src.plots.report import data_url, render

SIDE = 280  # pixels: small images are enlarged to about this width


class Question(NamedTuple):
    """A question of the human evaluation.

    Attributes:
        pictures: a single picture, real or generated, or a pair with one generated.
        real, generated: indices of the test datum and of the sample that are shown; None if not shown.
        answer: the right answer: real or generated for a single picture, left or right (the generated one) for a pair.
    """

    pictures: list[Image.Image]
    real: int | None
    generated: int | None
    answer: str


class Proportion(NamedTuple):
    """A proportion of right answers with its 95 % interval.

    Attributes:
        right: number of right answers.
        n: number of answers.
        low, high: ends of the interval.
    """

    right: int
    n: int
    low: float
    high: float


def question_page(questions: Sequence[Question], key: str, noun: str) -> str:
    """Render a page that asks the questions, stores the answers in the browser and exports them as CSV.

    Args:
        questions: in order, with pictures of one size.
        key: identifier of the samples; written to the CSV.
        noun: "image" or "signal".
    """
    truth = json.dumps([q[1:] for q in questions])
    content = {
        "key": key,
        "noun": noun,
        "size": questions[0].pictures[0].size,
        "questions": [[data_url(picture) for picture in q.pictures] for q in questions],
        # Base64, so that a glance at the source does not reveal the answers.
        "truth": b64encode(truth.encode()).decode(),
    }
    return render("human.html", title="Real or generated?", content=content)


def separate_pictures(x: Tensor, like: Tensor) -> list[Image.Image]:
    """Draw each of the images (N, C, H, W) enlarged, or each of the signals (N, C, L) as a curve.

    Args:
        x: in the units of the data.
        like: real data, which set the axes: samples are clipped to them, so that outliers do not flatten the others.
    """
    if x.ndim == 4:
        return [image_grid(one[None], 1, gap=0, least=SIDE) for one in x]
    figure, axes = new_figure(4.2, 2.8)
    axis, pictures = axes[0, 0], []
    lines = axis.plot(like[0].T.cpu(), linewidth=1.5)
    margin = 0.15 * (like.max() - like.min()).clamp(min=1e-6)
    axis.set(xlim=(0, x.shape[2] - 1), ylim=(float(like.min() - margin), float(like.max() + margin)))
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    for signal in x.cpu():
        for line, channel in zip(lines, signal, strict=True):
            line.set_ydata(channel)
        pictures.append(to_picture(figure))
        figure.set_layout_engine("none")  # the layout of the first is used for all
    return pictures


def accuracy_by_person(proportions: Mapping[str, Mapping[str, Proportion]]) -> Image.Image:
    """Plot the proportion of right answers of each person, with the line of chance.

    Args:
        proportions: by kind of question, one panel each, and by person.
    """
    longest = max(map(len, proportions.values()))
    figure, axes = new_figure(3.6 * len(proportions), 1.1 + 0.32 * longest, 1, len(proportions), sharex=True)
    for axis, (kind, people) in zip(axes[0], proportions.items(), strict=True):
        axis.axvline(50, color=GRAY, linestyle="--", linewidth=1.2)
        for y, share in enumerate(people.values()):
            axis.plot([100 * share.low, 100 * share.high], [y, y], color=BLUE, linewidth=2)
            axis.plot(100 * share.right / share.n, y, "o", color=BLUE)
        axis.set_yticks(range(len(people)), [name[:24] for name in people], fontsize=8)
        axis.set(xlim=(0, 100), ylim=(len(people) - 0.5, -0.5), xlabel="right answers, %")
        axis.set_title(kind, fontsize=10)
        axis.grid(alpha=0.3, axis="x")
    return to_picture(figure)

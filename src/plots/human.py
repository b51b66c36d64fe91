"""The page on which people say what is real and what is generated, and a plot of how often they were right."""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from src.plots.pictures import BLUE, GREY, image_grid, new_figure, to_picture
from src.plots.report import page

SIDE = 280  # pixels: how wide small images are enlarged
BODY = """
<p class="faint" id="how"></p>
<noscript><p>This page needs JavaScript.</p></noscript>
<main id="quiz" hidden>
<progress id="bar" value="0" aria-hidden="true"></progress>
<p id="question" aria-live="polite"><span class="number" id="count"></span> <strong id="asked"></strong></p>
<div id="choice">
<img id="first"><img id="second">
<button type="button" id="left"></button><button type="button" id="right"></button>
</div>
<p><button type="button" id="undo" class="small">Undo the last <kbd>U</kbd></button></p>
</main>
<section id="end" hidden>
<h2 id="done" tabindex="-1">Thank you</h2>
<div id="result"></div>
<p><label>Your name, if you like <input id="name" autocomplete="off" maxlength="40"></label></p>
<p class="row"><button type="button" id="export">Download the answers (CSV)</button>
<button type="button" id="again" class="small">Start again</button></p>
<p class="faint">Send the file to whoever asked you, or read it into the report: <code>human=FILE.csv</code>, or
<code>human=FOLDER</code> with the files of several people.</p>
</section>
"""


class Question(NamedTuple):
    """What is shown once.

    Attributes:
        pictures: one to be called real or generated, or two of which one is generated.
        real, generated: which of the real data and of the samples they show, as far as they do.
        answer: the right one: real or generated of a single picture, left or right (the generated one) of a pair.
    """

    pictures: list[Image.Image]
    real: int | None
    generated: int | None
    answer: str


class Proportion(NamedTuple):
    """How often somebody was right.

    Attributes:
        right, n: so many of so many answers.
        low, high: of the 95 % interval.
    """

    right: int
    n: int
    low: float
    high: float


def question_page(questions: Sequence[Question], key: str, noun: str) -> str:
    """One HTML file that asks, keeps the answers in the browser and gives them out as CSV.

    Args:
        questions: in their order, all pictures of one size.
        key: of the samples; goes into the CSV.
        noun: what one sample is called.
    """
    truth = json.dumps([q[1:] for q in questions])
    content = {
        "key": key,
        "noun": noun,
        "size": questions[0].pictures[0].size,
        "questions": [[encoded(picture) for picture in q.pictures] for q in questions],
        # Base64, so that who happens to see the source has not seen the answers.
        "truth": b64encode(truth.encode()).decode(),
    }
    data = f'<script type="application/json" id="questions">{json.dumps(content)}</script>'
    script, style = (Path(__file__).with_name(f"human.{end}").read_text("utf-8") for end in ("js", "css"))
    return page("Real or generated?", [BODY, data], script, style)


def encoded(picture: Image.Image) -> str:
    """A picture as a data URL."""
    file = BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"


def separate_pictures(x: Tensor, like: Tensor) -> list[Image.Image]:
    """Each of the images (N, C, H, W) enlarged, or each of the signals (N, C, L) as a curve.

    Args:
        x: in the units of the data.
        like: real data, which the axes fit: samples that leave them are cut off, and leave the others readable.
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
        figure.set_layout_engine("none")  # the first has laid the axes out for all
    return pictures


def accuracy_by_person(shares: Mapping[str, Mapping[str, Proportion]]) -> Image.Image:
    """How often each person was right, beside chance.

    Args:
        shares: by kind of question, a panel each, and then by person.
    """
    longest = max(map(len, shares.values()))
    figure, axes = new_figure(3.6 * len(shares), 1.1 + 0.32 * longest, 1, len(shares), sharex=True)
    for axis, (kind, people) in zip(axes[0], shares.items(), strict=True):
        axis.axvline(50, color=GREY, linestyle="--", linewidth=1.2)
        for y, share in enumerate(people.values()):
            axis.plot([100 * share.low, 100 * share.high], [y, y], color=BLUE, linewidth=2)
            axis.plot(100 * share.right / share.n, y, "o", color=BLUE)
        axis.set_yticks(range(len(people)), [name[:24] for name in people], fontsize=8)
        axis.set(xlim=(0, 100), ylim=(len(people) - 0.5, -0.5), xlabel="right answers, %")
        axis.set_title(kind, fontsize=10)
        axis.grid(alpha=0.3, axis="x")
    return to_picture(figure)

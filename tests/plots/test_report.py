"""Pages that stand alone."""

import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from src.metrics.base import MetricValue, Picture, ReportSection
from src.metrics.report import write_report
from src.plots.report import Block, Table, make_figure, render

VOID = ("meta", "link", "img")


class Balanced(HTMLParser):
    """Refuses tags that are not closed in order."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check(html: str) -> None:
    """That a page is whole, and fetches nothing."""
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", html) and "url(" not in html and "@import" not in html


def picture(color: str = "red") -> Image.Image:
    return Image.new("RGB", (20, 10), color)


def test_a_page_is_whole_and_fetches_nothing():
    blocks = [
        Block(heading="A & B"),
        Block(text="x < y"),
        Block(figure=make_figure(picture(), 'a "red" one')),
        Block(table=Table(["", "n"], [["<a>", "1"]])),
    ]
    html = render("comparison.html", title="Title <1>", blocks=blocks)
    check(html)
    assert "Title &lt;1&gt;" in html and "x &lt; y" in html and "<td>&lt;a&gt;</td>" in html and "A &amp; B" in html
    assert "prefers-color-scheme: dark" in html and "width=device-width" in html


def test_a_missing_variable_is_an_error():
    with pytest.raises(UndefinedError):
        render("comparison.html", title="Title")


@pytest.mark.parametrize("animated", [False, True])
def test_pictures_are_inside(animated):
    figure = make_figure([picture("red"), picture("blue")] if animated else picture("red"), "caption")
    kind, data = re.fullmatch(r"data:image/(\w+);base64,(.+)", figure.url).groups()
    image = Image.open(BytesIO(b64decode(data)))
    assert kind == ("gif" if animated else "png") and getattr(image, "n_frames", 1) == 1 + animated
    assert (np.asarray(image.convert("RGB"))[0, 0] == [255, 0, 0]).all()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (MetricValue("a", 1.23456), "1.23"),
        (MetricValue("a", 1.23456, 1.1, 1.4, 0.5), "1.23 [1.1, 1.4], real data 0.5"),
        (MetricValue("a", 12345.6), "12,346"),
        (MetricValue("a", -0.00123), "-0.00123"),
    ],
)
def test_a_value_as_text(value, text):
    assert value.text == text


def test_the_report_shows_every_number_picture_and_warning(tmp_path):
    record = {
        "name": "run", "run": "outputs/run", "samples_path": None, "ckpt": "best", "weights": "ema", "n": 2000,
        "seed": 0,
        "nfe": 10.0, "seconds": 3.2, "features": "some <features>",
        "sampler": {"_target_": "a.b.DDIM", "steps": 10, "time_grid": None}, "guidance": None,
    }  # fmt: skip
    values = {
        "fid": MetricValue("Fréchet distance", 3.21, 2.5, 4.4, 0.77, "lower"),
        "nfe": MetricValue("evaluations", 10),
    }
    pictures = {"grid": Picture(picture(), "a grid"), "path": Picture([picture(), picture("blue")], "an animation")}
    sections = {"distances": ReportSection("Distances", values, pictures, ["WARNING: few", "how to read it"])}
    write_report(tmp_path, record, sections)
    html = (tmp_path / "report.html").read_text("utf-8")
    check(html)
    for text in (
        "3.21",
        "2.5 to 4.4",
        "0.77",
        "lower",
        "a grid",
        "WARNING: few",
        "DDIM(steps=10, time_grid=none)",
        "3.2 s",
    ):
        assert text in html
    assert "some &lt;features&gt;" in html
    assert (tmp_path / "grid.png").exists() and (tmp_path / "path.gif").exists()

"""Self-contained HTML pages, rendered by Jinja from the templates in this package."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from src.plots.pictures import write_gif

if TYPE_CHECKING:
    from jinja2 import Environment

HALF_WIDTH = 760  # pixels: figures up to this width are placed two in a row


@cache
def environment() -> "Environment":
    """The Jinja environment: escapes all values, and raises for undefined ones."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).with_name("templates"))
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def render(template: str, **values: Any) -> str:
    """Render a page.

    Args:
        template: file name in src/plots/templates.
        values: variables of the template.
    """
    return environment().get_template(template).render(**values)


class Table(NamedTuple):
    """A table of plain text.

    Attributes:
        header: column titles; no header row if all are empty.
        rows: the cells.
        numbers: True if all columns but the first are numbers, which are right-aligned.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: bool = True


class Figure(NamedTuple):
    """A picture inside the page.

    Attributes:
        url: data URL of the picture.
        caption: plain text.
        width, height: in pixels.
    """

    url: str
    caption: str
    width: int
    height: int

    @property
    def half(self) -> bool:
        """True if two such figures fit in a row."""
        return self.width <= HALF_WIDTH


def make_figure(image: Image.Image | list[Image.Image], caption: str) -> Figure:
    """Encode a picture, or an animation of several."""
    first = image[0] if isinstance(image, list) else image
    return Figure(data_url(image), caption, first.width, first.height)


def data_url(image: Image.Image | list[Image.Image]) -> str:
    """Encode a picture as PNG, or several as GIF, in a data URL."""
    file, kind = BytesIO(), "png"
    if isinstance(image, list):
        kind = "gif"
        write_gif(image, file)
    else:
        image.save(file, "PNG", optimize=True)
    return f"data:image/{kind};base64,{b64encode(file.getvalue()).decode()}"


@dataclass
class Block:
    """A part of a page of blocks: a heading, a table, a figure or a paragraph.

    Attributes:
        faint: True for a paragraph in small print.
    """

    heading: str = ""
    table: Table | None = None
    figure: Figure | None = None
    text: str = ""
    faint: bool = False

"""Pages that stand alone: everything that they show is inside the one HTML file."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO

from PIL import Image

from src.plots.pictures import write_gif

HALF = 760  # pixels: pictures up to this width stand two in a row
STYLE = """
:root { color-scheme: light dark; --ink: #1a202c; --paper: #fff; --faint: #5a6577; --line: #d5dae2; --card: #f5f7fa;
  --accent: #2b6cb0; --shade: #1a202c55; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --paper: #14171c; --faint: #9aa5b5; --line: #353c47;
  --card: #1d2129; --accent: #7fb2e5; --shade: #000c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem; max-width: 62rem; font: 16px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p { margin: .5rem 0; overflow-wrap: anywhere; }
p.faint, figcaption { color: var(--faint); font-size: .9rem; }
/* A table that is wider than the page scrolls by itself: its bar is always there, and a shadow at the side says that
   there is more. The grounds that hide the shadows move with the table, the shadows do not. */
.wide { overflow-x: auto; scrollbar-color: var(--faint) var(--card);
  background: linear-gradient(to right, var(--paper) 1.5rem, transparent 3rem) 0 0 / 3rem 100% no-repeat local,
    linear-gradient(to left, var(--paper) 1.5rem, transparent 3rem) 100% 0 / 3rem 100% no-repeat local,
    linear-gradient(to right, var(--shade), transparent) 0 0 / 1rem 100% no-repeat,
    linear-gradient(to left, var(--shade), transparent) 100% 0 / 1rem 100% no-repeat; }
.wide::-webkit-scrollbar { height: 9px; }
.wide::-webkit-scrollbar-track { background: var(--card); }
.wide::-webkit-scrollbar-thumb { background: var(--faint); border-radius: 4px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--faint); font-weight: 600; font-size: .85rem; }
td.number { text-align: right; white-space: nowrap; }
td:first-child { min-width: 7rem; max-width: 20rem; }
td { overflow-wrap: break-word; }
table.text td { overflow-wrap: anywhere; }
.figures { display: flex; flex-wrap: wrap; gap: 0 1.5rem; }
figure { margin: .8rem 0; max-width: 100%; }
@media (min-width: 60rem) { .figures figure.half { width: calc(50% - .75rem); } }
/* Plots have a white ground of their own, on a card that looks meant in the dark too. */
figure img { max-width: 100%; height: auto; display: block; background: #fff; border: 1px solid var(--line);
  border-radius: 6px; padding: 4px; }
code { background: var(--card); border-radius: 4px; padding: .1rem .3rem; font-size: .88em; overflow-wrap: anywhere; }
a { color: var(--accent); }
"""


def page(title: str, blocks: Sequence[str], script: str = "", style: str = "") -> str:
    """A whole HTML page.

    Args:
        title: its title, plain text.
        blocks: its body, HTML.
        script, style: JavaScript and CSS of its own.
    """
    body = "\n".join(blocks)
    end = f"<script>{script}</script>\n" if script else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n{end}</body>\n</html>\n"
    )


def heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, faint: bool = False) -> str:
    return f'<p class="faint">{escape(text)}</p>' if faint else f"<p>{escape(text)}</p>"


def figures(tags: Sequence[str]) -> str:
    """Figures, small ones two in a row where the page is wide enough."""
    return f'<div class="figures">{"".join(tags)}</div>' if tags else ""


def picture_tag(image: Image.Image | list[Image.Image], caption: str) -> str:
    """A figure with the picture in it; several pictures are an animation."""
    file, kind = BytesIO(), "png"
    first = image[0] if isinstance(image, list) else image
    half = ' class="half"' if first.width <= HALF else ""
    if isinstance(image, list):
        kind = "gif"
        write_gif(image, file)
    else:
        image.save(file, "PNG", optimize=True)
    inside = b64encode(file.getvalue()).decode()
    return (
        f'<figure{half}><img alt="{escape(caption)}" src="data:image/{kind};base64,{inside}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def table_tag(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True) -> str:
    """A table of plain text that scrolls by itself where it is wider than the page.

    Args:
        header: one title a column; no header where all are empty.
        rows: the cells.
        numbers: whether all columns but the first are numbers, which stand at the right.
    """
    css = ' class="number"' if numbers else ""
    head = "<tr>" + "".join(f"<th>{escape(h)}</th>" for h in header) + "</tr>" if any(header) else ""
    body = "".join(
        f"<tr><td>{escape(row[0])}</td>" + "".join(f"<td{css}>{escape(cell)}</td>" for cell in row[1:]) + "</tr>\n"
        for row in rows
    )
    kind = "" if numbers else ' class="text"'
    return f'<div class="wide" tabindex="0"><table{kind}>\n{head}\n{body}</table></div>'

"""The output files of a comparison: tables, plots and an HTML page."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from src.commands.compare.table import MARK, aligned, markdown
from src.plots.pictures import write_picture
from src.plots.report import Block, Table, make_figure, render
from src.utils.atomic import write_text
from src.utils.console import log
from src.utils.folders import make_out

MEANING = (
    f"{MARK} marks the best of a column if it is significantly better than every other: by Welch's test over seeds "
    "(p < 0.05), or by disjoint 95 % intervals. No mark: the numbers do not show which is best."
)
READING = "Several seeds: mean ± standard deviation. A single seed: the value, with its 95 % interval if known."


class Report:
    """Collects the contents of a comparison and writes them.

    Args:
        folder: the output folder.
        title: title of the page.
    """

    def __init__(self, folder: Path, title: str):
        self.folder, self.title = folder, title
        self.files: list[str] = []
        self.blocks: list[Block] = []
        self.md: list[str] = [f"# {title}"]
        make_out(folder)

    def notes(self, notes: Sequence[str]) -> None:
        """Add notes on the numbers."""
        for note in notes:
            log.info(f"  {note}")
            self.blocks.append(Block(text=note))
        if notes:
            self.md.append("\n".join(f"- {note}" for note in notes))

    def main_table(self, cells: Sequence[Sequence[str]], numbers: str) -> None:
        """Add the main table, and print it.

        Args:
            cells: the header and the rows.
            numbers: the content of table.csv, in full precision.
        """
        log.info(f"\n{aligned(cells)}\n")
        marked = any(cell.endswith(MARK) for row in cells for cell in row)
        meaning = MEANING if marked else MEANING.partition(": ")[0] + "; nothing is marked here."
        log.info(f"  {meaning}")
        self.blocks += [Block(table=Table(cells[0], cells[1:])), Block(text=f"{READING} {meaning}", faint=True)]
        self.md += [markdown(cells), READING, meaning.replace(MARK, "Bold")]
        self.save("table.csv", numbers)

    def table(self, title: str, cells: Sequence[Sequence[str]], caption: str = "") -> None:
        """Add a table with a heading."""
        self.blocks += [Block(heading=title), Block(table=Table(cells[0], cells[1:]))]
        self.md += [f"## {title}", markdown(cells)]
        if caption:
            self.blocks.append(Block(text=caption, faint=True))
            self.md.append(caption)

    def section(self, title: str) -> None:
        """Add a heading."""
        self.blocks.append(Block(heading=title))

    def picture(self, name: str, picture: Image.Image, caption: str) -> None:
        """Add a plot to the page, and write it as a PNG file."""
        write_picture(picture, self.folder / f"{name}.png")
        self.files.append(f"{name}.png")
        self.blocks.append(Block(figure=make_figure(picture, caption)))

    def write(self) -> None:
        """Write the page, and print the names of all files."""
        self.save("table.md", "\n\n".join(self.md) + "\n")
        self.save("comparison.html", render("comparison.html", title=self.title, blocks=self.blocks))
        log.info(f"\n  written  {self.folder}: {', '.join(reversed(self.files))}")

    def save(self, name: str, text: str) -> None:
        """Write a text file."""
        write_text(self.folder / name, text)
        self.files.append(name)

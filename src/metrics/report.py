"""The report of an evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.metrics.base import MetricValue, ReportSection
from src.plots.pictures import write_gif, write_picture
from src.plots.report import figures, heading, page, paragraph, picture_tag, table_tag
from src.utils.atomic import atomic_write, write_text
from src.utils.console import describe


def write_report(folder: Path, record: Mapping[str, Any], sections: Mapping[str, ReportSection]) -> None:
    """report.html, and the pictures in it as files.

    Args:
        folder: where.
        record: what metrics.json holds.
        sections: by the names of their measures.
    """
    for section in sections.values():
        for name, picture in section.pictures.items():
            if isinstance(picture.image, list):
                with atomic_write(folder / f"{name}.gif") as partial:
                    write_gif(picture.image, partial)
            else:
                write_picture(picture.image, folder / f"{name}.png")
    blocks = [table_tag(["", ""], summary(record), numbers=False)]
    for section in sections.values():
        blocks += section_blocks(section)
    write_text(folder / "report.html", page(f"Evaluation of {record['name'] or record['run']}", blocks))


def section_blocks(section: ReportSection) -> list[str]:
    """A section: what is to be warned of, its numbers, its pictures, and how to read them."""
    blocks = [heading(section.title)]
    blocks += [value_table(list(section.values.values()))] if section.values else []
    blocks += [paragraph(section.conclusion)] if section.conclusion else []
    blocks += [paragraph(note, faint=not note.startswith("WARNING")) for note in section.notes]
    return [*blocks, figures([picture_tag(p.image, p.caption) for p in section.pictures.values()])]


def value_table(values: Sequence[MetricValue]) -> str:
    header = ["", "value", "95 % interval", "real data", "better is"]
    rows = [
        [
            v.name,
            v.format(v.value),
            f"{v.format(v.interval[0])} to {v.format(v.interval[1])}" if v.interval else "",
            "" if v.real_baseline is None else v.format(v.real_baseline),
            v.better or "",
        ]
        for v in values
    ]
    # Columns that say nothing of any value are left out.
    kept = [i for i in range(5) if i < 2 or any(row[i] for row in rows)]
    return table_tag([header[i] for i in kept], [[row[i] for i in kept] for row in rows])


def summary(record: Mapping[str, Any]) -> list[list[str]]:
    """What was measured, in a few lines."""
    cost = record["nfe"] and f", {record['nfe']:g} evaluations of the network each, {record['seconds']:.1f} s in all"
    rows = [
        ["run", record["run"]],
        ["weights", f"{record['weights']}, checkpoint {record['ckpt']}"],
        ["samples", f"{record['n']:,}{cost or ''}, seed {record['seed']}"],
    ]
    if record["samples_path"]:
        rows.append(["from", record["samples_path"]])
    else:
        rows += [["sampler", describe(record["sampler"])], ["guidance", describe(record["guidance"])]]
    return rows + ([["features", record["features"]]] if record["features"] else [])

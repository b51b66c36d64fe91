"""The report of an evaluation."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from src.metrics.base import MetricValue, ReportSection
from src.plots.pictures import write_gif, write_picture
from src.plots.report import Table, make_figure, render
from src.utils.atomic import atomic_write, write_text
from src.utils.console import describe


def write_report(folder: Path, record: Mapping[str, Any], sections: Mapping[str, ReportSection]) -> None:
    """Write report.html, and its pictures as files.

    Args:
        folder: the output folder.
        record: the content of metrics.json.
        sections: by metric name.
    """
    write_pictures_of(sections.values(), folder)
    write_text(folder / "report.html", report_page(record, list(sections.values())))


def write_pictures_of(sections: Iterable[ReportSection], folder: Path) -> None:
    """Write the pictures of sections as files."""
    for section in sections:
        for name, picture in section.pictures.items():
            if isinstance(picture.image, list):
                with atomic_write(folder / f"{name}.gif") as partial:
                    write_gif(picture.image, partial)
            else:
                write_picture(picture.image, folder / f"{name}.png")


def report_page(record: Mapping[str, Any], sections: Sequence[ReportSection]) -> str:
    """Render the page: for each metric its numbers, their interpretation, notes and pictures."""
    title = f"Evaluation of {record['name'] or record['run']}"
    headlines = [[title, text] for section in sections for title, text in section.headline.items()]
    summary = Table(["", ""], summary_rows(record) + headlines, numbers=False)
    return render("evaluation.html", title=title, summary=summary, sections=[*map(shown_section, sections)])


def shown_section(section: ReportSection) -> dict[str, Any]:
    """A section as the template evaluation.html shows it."""
    return {
        "title": section.title,
        "table": value_table(list(section.values.values())) if section.values else None,
        "conclusion": section.conclusion,
        "notes": section.notes,
        "figures": [make_figure(p.image, p.caption) for p in section.pictures.values()],
    }


def value_table(values: Sequence[MetricValue]) -> Table:
    """The values of a metric, without columns that are empty for all of them."""
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
    kept = [i for i in range(5) if i < 2 or any(row[i] for row in rows)]
    return Table([header[i] for i in kept], [[row[i] for i in kept] for row in rows])


def summary_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """The run, its sampling settings and the features, as rows of a table."""
    cost = record["nfe"] and f", {record['nfe']:g} network evaluations each, {record['seconds']:.1f} s in all"
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

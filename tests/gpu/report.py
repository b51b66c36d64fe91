"""docs/gpu.md from a file of results."""

from pathlib import Path
from typing import Any

from tests.benchmarks.loop.page import write_between
from tests.benchmarks.results import align
from tests.gpu.results import Figure, read, show

PAGE = Path("docs/gpu.md")
TITLES = {"right": "Right", "fast": "Fast", "plan": "Plan", "good": "Good"}


def write_page(file: Path, page: Path = PAGE) -> Path:
    """Update the generated part of the page."""
    write_between(page, "gpu", report(read(file)))
    return page


def report(content: dict[str, Any]) -> str:
    """All sections in Markdown."""
    parts = [caption(content["about"])]
    for section, title in TITLES.items():
        checks = {k.partition(".")[2]: v for k, v in content["checks"].items() if k.startswith(f"{section}.")}
        if checks:
            parts += [
                f"### {title}",
                *tables(checks),
                align([["check", "result", "figures"], *map(line, checks.items())]),
            ]
    return "\n\n".join(parts)


def caption(about: dict[str, Any]) -> str:
    """Device, versions, date and commit."""
    rest = ", ".join(f"{key} {value}" for key, value in about.items() if key not in ("device", "date", "commit"))
    commit = f" at {about['commit']}" if about.get("commit") else ""
    return f"Measured on {about['device']} on {about['date']}{commit} ({rest})."


def line(check: tuple[str, dict[str, Any]]) -> list[str]:
    """A check, how it ended, and its figures or why it failed."""
    name, entry = check
    own = [Figure(**{k: v for k, v in figure.items() if k != "reached"}) for figure in entry["figures"]]
    texts = [str(figure) for figure in own]
    if entry["message"] and not any(entry["message"].startswith(text) for text in texts):
        texts.insert(0, entry["message"])
    text = "; ".join(texts + entry["notes"]).replace("|", "/").replace("\n", " ")
    return [f"`{name}`", entry["status"], text]


def tables(checks: dict[str, dict[str, Any]]) -> list[str]:
    """The rows of all checks, those with the same columns in one table."""
    by_columns: dict[tuple[str, ...], list[list[str]]] = {}
    for entry in checks.values():
        for row in entry["rows"]:
            by_columns.setdefault(tuple(row), []).append([show(value) for value in row.values()])
    return [align([list(columns), *rows]) for columns, rows in by_columns.items()]

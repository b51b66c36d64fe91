"""What the bench of samplers has measured: kept in one file, shown on one page."""

import json
import os
from pathlib import Path
from typing import Any

REFERENCE = ("ddpm", 1000)  # sampler and evaluations of the row that others can be judged by
OVERHEAD_BATCH = 64  # samples drawn at a time when measuring overhead
QUALITY = """\
Squared Fréchet distance between features of a digit classifier for samples and for the 10,000 test digits, in percent
of the variance of the latter, by the number of network evaluations. Lower is better; only distances at the same n can
be compared. In brackets the 95 % interval of a bootstrap over samples, too wide near the baseline of real data.
"at k": the sampler evaluates the network k times, the most that fit. All start from the same noise."""
OVERHEAD = f"Time of the sampling loop outside of the network, over that in it, in batches of {OVERHEAD_BATCH}."


class Results:
    """What has been measured of one run, kept in samplers.json beside other runs, and written as samplers.md.

    Attributes:
        about: what all cells have in common; another run, checkpoint, n or seed begins anew.
        cells: by "SAMPLER@EVALUATIONS".
    """

    def __init__(self, folder: Path, about: dict[str, Any]):
        self.folder, self.about = folder, about
        self.key = " ".join(f"{name}={value}" for name, value in about.items())
        folder.mkdir(parents=True, exist_ok=True)
        self.cells: dict[str, dict[str, Any]] = self._all().get(self.key, {}).get("cells", {})

    def _all(self) -> dict[str, Any]:
        file = self.folder / "samplers.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def holds(self, key: str, sampler: Any) -> bool:
        """Whether this cell was measured, with these very settings, and without a crash."""
        cell = self.cells.get(key)
        return cell is not None and cell["sampler"] == sampler and not cell.get("crashed")

    def put(self, key: str, cell: dict[str, Any]) -> None:
        """Add a cell, and write."""
        self.cells[key] = cell
        replace(
            self.folder / "samplers.json",
            json.dumps(self._all() | {self.key: {"about": self.about, "cells": self.cells}}, indent=1),
        )
        replace(self.folder / "samplers.md", markdown(self.about, self.cells))


def replace(file: Path, text: str) -> None:
    """Write a file in one move."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(file)


def show(cell: dict[str, Any]) -> str:
    """A cell as text; the number of evaluations where it is not the one asked for."""
    if "reason" in cell:
        return "–"
    if "overhead" in cell:
        return f"{cell['overhead']:.1%}"
    text = f"{cell['distance']:.2f} [{cell['low']:.2f}, {cell['high']:.2f}]"
    return text if cell.get("nfe") == cell.get("budget") or "nfe" not in cell else f"{text} at {cell['nfe']:g}"


def markdown(about: dict[str, Any], cells: dict[str, dict[str, Any]]) -> str:
    """The page of results."""
    quality = [c for c in cells.values() if c["kind"] == "quality"]
    overhead = [c for c in cells.values() if c["kind"] == "overhead"]
    main = [c for c in quality if (c["row"], c["budget"]) != REFERENCE]
    budgets = sorted({c["budget"] for c in main})
    by_place = {(c["row"], c["budget"]): c for c in main}
    names = sorted({c["row"] for c in main})
    special = {
        "real training digits": cells.get("real_baseline"),
        "{} at {}".format(*REFERENCE): cells.get("ddpm@1000"),
    }
    table = [["sampler", *map(str, budgets)]]
    table += [[name, *(show(by_place[name, b]) if (name, b) in by_place else "" for b in budgets)] for name in names]
    reasons = [f"- `{c['row']}` at {c['budget']}: {c['reason']}" for c in [*quality, *overhead] if "reason" in c]
    costs = [["sampler", "evaluations", "network, ms each", "overhead", "range"]]
    for c in sorted((c for c in overhead if "overhead" in c), key=lambda c: c["row"]):
        span = f"{c['range'][0]:.1%} to {c['range'][1]:.1%}"
        costs.append([c["row"], f"{c['nfe']:g}", f"{c['net_ms']:.1f}", show(c), span])
    parts = ["# Samplers", "\n".join(f"- {name}: `{value}`" for name, value in about.items()), "## Quality", QUALITY]
    parts += ["\n".join(f"- {name}: {show(cell)}" for name, cell in special.items() if cell)]
    parts += [align(table)] if names else []
    parts += ["## Overhead", OVERHEAD, align(costs)] if len(costs) > 1 else []
    parts += ["Empty cells:", "\n".join(reasons)] if reasons else []
    return "\n\n".join(parts) + "\n"


def align(table: list[list[str]]) -> str:
    """A Markdown table that also reads well as text."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in table]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])

"""What a bench has measured, as text: on the screen, as JSON, and between two markers of a page."""

import json
import os
import statistics
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from src.data.workers import cpus
from src.runs.git_state import git_commit
from src.utils.errors import UserError
from tests.benchmarks.results import align, replace

PAGE = Path("docs/performance.md")


@dataclass
class Figure:
    """What was measured again and again beside its reference, in turns.

    Attributes:
        name: what.
        reference: what it is compared with.
        unit: s, ms or MiB, in which it is shown; seconds and MiB are kept.
        ours, theirs: one value a turn.
    """

    name: str
    reference: str
    unit: str
    ours: list[float]
    theirs: list[float]

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True)]

    def row(self) -> list[str]:
        """Of the table: medians, and the lowest and highest ratio of a turn."""
        scale = 1000 if self.unit == "ms" else 1
        ours, theirs = (f"{scale * statistics.median(v):.3g} {self.unit}" for v in (self.ours, self.theirs))
        low, middle, high = map(plainly, (min(self.ratios), statistics.median(self.ratios), max(self.ratios)))
        spread = f"{low} to {high}" if len(self.ratios) > 1 else ""
        return [self.name, ours, f"{self.reference}, {theirs}", f"**{middle}**", spread]


def plainly(ratio: float) -> str:
    """Three decimals, and two digits of what is small."""
    return f"{ratio:.3f}" if ratio >= 0.1 else f"{ratio:.2g}"


def about() -> dict[str, Any]:
    """Where and when this is measured."""
    return {
        "cpu": cpu_name(),
        "cores": cpus(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        "commit": git_commit(),
    }


def cpu_name(info: Path = Path("/proc/cpuinfo")) -> str:
    """As the system calls it; its architecture where it does not say."""
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else os.uname().machine


def caption(about: dict[str, Any]) -> str:
    threads = f"{about['threads']} thread{'s' * (about['threads'] > 1)}"
    return (
        f"Measured on {about['cores']} cores ({about['cpu']}), {threads}, torch {about['torch']}, "
        f"on {about['date']} at {about['commit']}."
    )


def table_of(figures: list[Figure]) -> str:
    """The Markdown table of the guard."""
    head = ["", "diffusion-lab", "reference", "ratio", "range over turns"]
    return align([head, *(figure.row() for figure in figures)])


def write_json(file: Path, about: dict[str, Any], **measured: Any) -> None:
    """Keep what was measured; dataclasses as their fields."""
    file.parent.mkdir(parents=True, exist_ok=True)
    replace(file, json.dumps({"about": about, **measured}, indent=1, default=asdict) + "\n")


def write_between(page: Path, name: str, text: str) -> None:
    """Replace what stands between <!-- NAME --> and <!-- /NAME --> on a page.

    Raises:
        UserError: where the page has not both of them, once and in this order.
    """
    before, opening, rest = page.read_text().partition(f"<!-- {name} -->")
    _, closing, after = rest.partition(f"<!-- /{name} -->")
    if not closing or opening in rest or closing in after:
        raise UserError(f"{page} needs one <!-- {name} --> and after it one <!-- /{name} -->")
    replace(page, f"{before}{opening}\n{text.strip()}\n{closing}{after}")

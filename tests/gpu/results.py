"""What a check found, and the file that keeps the findings of all checks."""

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from src.utils.atomic import write_json

PASSED, BELOW, FAILED, SKIPPED, RUNNING = "passed", "below the goal", "failed", "skipped", "running"


@dataclass
class Figure:
    """A number that was measured.

    Attributes:
        name, value, unit: what, how much.
        at_least, at_most: what it is compared with.
        goal: True if missing these is no failure, but below the goal.
    """

    name: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    goal: bool = False

    @property
    def reached(self) -> bool:
        """False also for a number that is not finite."""
        low, high = self.at_least, self.at_most
        if low is None and high is None:
            return True
        return math.isfinite(self.value) and (low is None or self.value >= low) and (high is None or self.value <= high)

    def __str__(self) -> str:
        limits = {"at least": self.at_least, "at most": self.at_most}
        asked = ", ".join(f"{word} {show(limit)}" for word, limit in limits.items() if limit is not None)
        missed = "" if self.reached else ": below the goal" if self.goal else ": FAILED"
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.name} {show(self.value)}{unit}{f' ({asked}{missed})' if asked else ''}"


def show(value: Any) -> str:
    """Three digits of a number, with commas from a thousand on."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


@dataclass
class Outcome:
    """What a check found so far.

    Attributes:
        figures: numbers, some with a limit or a goal.
        rows: of the table of its section, by column.
        notes: sentences.
        error: why it failed, apart from figures beyond their limits.
        skipped: why it was not run.
    """

    figures: list[Figure] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: str | None = None
    skipped: str | None = None

    def add(self, name: str, value: float, unit: str = "", **limits: Any) -> None:
        """Add a figure, and print it."""
        self.figures.append(Figure(name, float(value), unit, **limits))
        print(f"    {self.figures[-1]}", flush=True)

    def row(self, **cells: Any) -> None:
        """Add a row, and print it."""
        self.rows.append(cells)
        print("    " + ", ".join(f"{name} {show(value)}" for name, value in cells.items() if value != ""), flush=True)

    def note(self, text: str) -> None:
        self.notes.append(text)
        print(f"    {text}", flush=True)

    @property
    def status(self) -> str:
        if self.skipped is not None:
            return SKIPPED
        missed = [figure for figure in self.figures if not figure.reached]
        if self.error is not None or any(not figure.goal for figure in missed):
            return FAILED
        return BELOW if missed else PASSED

    @property
    def message(self) -> str:
        """In a line: why it failed or was skipped, else what it missed."""
        beyond = [str(figure) for figure in self.figures if not figure.reached]
        return "; ".join([text for text in (self.skipped, self.error) if text is not None] + beyond)


class Results:
    """The findings in a file, which is written after each of them.

    Args:
        file: the file; what it holds of another device, version or commit is dropped.
        about: the device, the versions and the commit.
    """

    def __init__(self, file: Path, about: dict[str, Any]):
        self.file, self.about = file, about
        old = read(file)
        same = {k: v for k, v in old["about"].items() if k != "date"} == {k: v for k, v in about.items() if k != "date"}
        self.checks: dict[str, dict[str, Any]] = old["checks"] if same else {}

    def begin(self, name: str) -> None:
        """Note that a check runs, so that it is known if it ends this process."""
        self._put(name, {"status": RUNNING, "started": time.time()})

    def end(self, name: str, outcome: Outcome, seconds: float) -> dict[str, Any]:
        entry = {"status": outcome.status, "message": outcome.message, "seconds": round(seconds, 2)}
        entry |= {"figures": [asdict(f) | {"reached": f.reached} for f in outcome.figures]}
        entry |= {"rows": outcome.rows, "notes": outcome.notes, "ended": time.time()}
        self._put(name, entry)
        return entry

    def fail(self, name: str, reason: str) -> None:
        """Record a check whose process ended."""
        began = self.checks[name].get("started", time.time())
        self.end(name, Outcome(error=reason), time.time() - began)

    def _put(self, name: str, entry: dict[str, Any]) -> None:
        self.checks[name] = entry
        write_json(self.file, {"about": self.about, "checks": self.checks})


def read(file: Path) -> dict[str, Any]:
    """What a file of results holds."""
    return json.loads(file.read_text()) if file.exists() else {"about": {}, "checks": {}}

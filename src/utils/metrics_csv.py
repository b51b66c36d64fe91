"""metrics.csv: every logged value of a run, one row a step, readable while it grows and after a kill."""

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from src.utils.files import check, read_rows, reading

ADVICE = "Delete it: the run goes on without the values logged before"
Row = dict[str, float]


class MetricsCSV(Logger):
    """Writes `<folder>/metrics.csv`; a new column rewrites the file, which happens a few times a run.

    Lightning's CSVLogger deletes the file of a run that is resumed; this one continues it.

    Args:
        folder: where the file goes.
    """

    def __init__(self, folder: str):
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self.columns: list[str] = []
        self.row: Row = {}
        self.row_begins: int | None = None  # where in the file, once it has been written

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Kept by the run folder's config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Row, step: int | None = None) -> None:
        """Add values to the row of a step; it is written when the next one begins, or by `save`."""
        if self.row and self.row["step"] != step:
            self.save()
            self.row, self.row_begins = {}, None
        self.row |= {"step": step or 0, **metrics}

    @rank_zero_only
    def save(self) -> None:
        """Write the row at hand, in the place of what it was when it was written before."""
        if not self.row:
            return
        if self.row_begins is not None:
            with self.path.open("r+") as file:
                file.truncate(self.row_begins)
        if not self.columns and self.path.exists():
            self.columns = next(iter(read_rows(self.path, ADVICE)), [])
        new = [key for key in self.row if key not in self.columns]
        if new:
            self.columns += new
            write_metrics(self.path, read_metrics(self.path) if self.path.exists() else [], self.columns)
        self.row_begins = self.path.stat().st_size
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(self.row)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Forget what was written after `step`, to which a resumed run goes back, and go on with the row of it."""
        if self.path.exists():
            rows = read_metrics(self.path)
            self.columns = list(dict.fromkeys(key for row in rows for key in row))
            rows = [row for row in rows if row["step"] <= step]
            write_metrics(self.path, rows, self.columns)
            if rows and rows[-1]["step"] == step:
                self.row, self.row_begins = rows[-1], self.path.read_bytes().rstrip().rfind(b"\n") + 1


def read_metrics(path: Path) -> list[Row]:
    """The rows of a metrics.csv, without their empty cells; a last line cut off by a kill is left out."""
    rows = read_rows(path, ADVICE)
    columns = rows[0] if rows else []
    with reading(path, ADVICE):
        whole = [row for row in rows[1:] if len(row) == len(columns)]
        parsed = [{key: float(v) for key, v in zip(columns, row, strict=True) if v} for row in whole]
        check(parsed, [{"step": float}], "row")
        return [{k: int(v) if k in ("step", "epoch") else v for k, v in row.items()} for row in parsed]


def write_metrics(path: Path, rows: list[Row], columns: list[str]) -> None:
    """Replace a metrics.csv in one move."""
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)

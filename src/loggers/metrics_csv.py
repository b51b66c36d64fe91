"""metrics.csv: every logged value of a run, one row a step, readable while it grows and after a kill."""

import csv
import io
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from src.utils.atomic import atomic_write, require_exists
from src.utils.files import check, read_rows, reading

ADVICE = "Delete it; the run resumes without the values logged before"
Row = dict[str, float]


class MetricsCSV(Logger):
    """Logger to `<folder>/metrics.csv`; a new column rewrites the file, a few times per run.

    Lightning's CSVLogger deletes the file of a run that is resumed; this one continues it.

    Args:
        folder: the folder of the file.
    """

    def __init__(self, folder: str):
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self.columns: list[str] = []
        self.row: Row = {}
        self.row_begins: int | None = None  # the position of the row in the file, once written

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml in the run folder holds the hyperparameters."""

    @rank_zero_only
    def log_metrics(self, metrics: Row, step: int | None = None) -> None:
        """Add values to the row of a step; the row is written when the next step is logged, or by `save`."""
        if self.row and self.row["step"] != step:
            self.save()
            self.row, self.row_begins = {}, None
        self.row |= {"step": step or 0, **metrics}

    @rank_zero_only
    def save(self) -> None:
        """Write the current row, over its earlier version if it was written before."""
        if not self.row:
            return
        if self.columns:  # the file was written or read before
            require_exists(self.path.parent, self.path.name)
        elif self.path.exists():
            self.columns = next(iter(read_rows(self.path, ADVICE)), [])
        if new := [key for key in self.row if key not in self.columns]:
            self.columns += new
            rows = read_metrics(self.path) if self.path.exists() else []
            self.rewrite([*(rows if self.row_begins is None else rows[:-1]), self.row])
            return
        if self.row_begins is None:
            self.row_begins = self.path.stat().st_size
        # The new row holds all values of the old one, so that none is missing at any moment.
        with self.path.open("r+b", buffering=0) as file:
            file.seek(self.row_begins)
            file.write(csv_text([self.row], self.columns))
            file.truncate()

    def rewrite(self, rows: list[Row]) -> None:
        """Replace the file; the last of the rows becomes the current row."""
        write_metrics(self.path, rows, self.columns)
        self.row, last = rows[-1], csv_text(rows[-1:], self.columns)
        self.row_begins = self.path.stat().st_size - len(last)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Delete the rows after `step`, at which a resumed run continues; the row of `step` becomes the current row."""
        if not self.path.exists():
            return
        rows = read_metrics(self.path)
        self.columns = list(dict.fromkeys(key for row in rows for key in row))
        rows = [row for row in rows if row["step"] <= step]
        if rows and rows[-1]["step"] == step:
            self.rewrite(rows)
        else:
            write_metrics(self.path, rows, self.columns)


def read_metrics(path: Path) -> list[Row]:
    """Read the rows of a metrics.csv without empty cells, and without a last line that a kill truncated."""
    rows = read_rows(path, ADVICE)
    columns = rows[0] if rows else []
    with reading(path, ADVICE):
        whole = [row for row in rows[1:] if len(row) == len(columns)]
        parsed = [{key: float(v) for key, v in zip(columns, row, strict=True) if v} for row in whole]
        check(parsed, [{"step": float}], "row")
        return [{k: int(v) if k in ("step", "epoch") else v for k, v in row.items()} for row in parsed]


def write_metrics(path: Path, rows: list[Row], columns: list[str]) -> None:
    """Replace a metrics.csv atomically."""
    with atomic_write(path) as partial:
        header = csv_text([dict(zip(columns, columns, strict=True))], columns)
        partial.write_bytes(header + csv_text(rows, columns))


def csv_text(rows: Sequence[Mapping[str, Any]], columns: list[str]) -> bytes:
    """Format rows as lines of a CSV file, without a header."""
    text = io.StringIO(newline="")
    csv.DictWriter(text, columns, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()

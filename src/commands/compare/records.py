"""Records of runs for a comparison, read from their folders."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from src.loggers.metrics_csv import Row, read_metrics
from src.runs.data_identity import identifying_settings
from src.runs.run import CONFIG, OtherVersion, Run
from src.runs.sweep import SWEEP, SweepPlan, read_jobs
from src.utils import files
from src.utils.console import log
from src.utils.errors import UserError
from src.utils.override_syntax import read

# The schema of metrics.json, as far as it is read here.
NUMBER, TEXT = (float, type(None)), (str, type(None))
METRIC = {"value": NUMBER, "low?": NUMBER, "high?": NUMBER, "real_baseline?": NUMBER, "better?": TEXT, "name?": TEXT}
METRICS = {"n?": int, "nfe?": NUMBER, "seconds?": NUMBER, "features?": TEXT, "key?": TEXT, "metrics?": {"*": METRIC}}


class Curve(NamedTuple):
    """A logged value against training samples and against seconds; empty lists if unknown."""

    samples: list[float]
    seconds: list[float]
    values: list[float]


@dataclass
class RunRecord:
    """The record of a run.

    Attributes:
        run: the run folder.
        name: short name, unique in the comparison.
        facts: the content of run.json.
    """

    run: Run
    name: str
    facts: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.facts = self.run.metadata()

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config, with placeholders for the folders of the run."""
        return self.run.portable_settings()

    @cached_property
    def data_settings(self) -> dict[str, Any]:
        """The settings and the hash of files that identify the data of the run."""
        return identifying_settings(self.config["data"], (self.facts.get("data_identity") or {}).get("files"))

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of metrics.csv."""
        file = self.run.path / "metrics.csv"
        return read_metrics(file) if file.is_file() else []

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """The evaluations of samples of the run, newest first; metrics of the same samples are merged."""
        found: dict[tuple[Any, Any], dict[str, Any]] = {}
        files = self.run.path.glob("evaluations/*/metrics.json")
        for file in sorted(files, key=lambda f: -f.stat().st_mtime):
            read = read_metrics_json(file)
            if read and not read.get("samples_path"):
                same = found.setdefault((read.get("key", file), read.get("features")), read)
                same["metrics"] = read.get("metrics", {}) | same.get("metrics", {})
        return list(found.values())

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def results(self) -> dict[str, Any] | None:
        """The results of the run; None if it has not finished."""
        return self.facts.get("results")

    @property
    def has_checkpoint(self) -> bool:
        return (self.run.checkpoints / "best.ckpt").is_file()

    @property
    def steps(self) -> int:
        """The number of optimizer steps."""
        return self.results["steps"] if self.results else max((row["step"] for row in self.rows), default=0)  # type: ignore[return-value]

    @property
    def batch_size(self) -> int:
        """The number of samples per optimizer step."""
        return self.config["data"]["batch_size"] * self.config["trainer"].get("accumulate_grad_batches", 1)

    def curve(self, key: str) -> Curve:
        """The values logged under a key over training."""
        rows = [row for row in self.rows if key in row]
        results = self.results or {}
        pace = results["seconds"] / results["steps"] if results.get("steps") else None
        clock = [row.get("train/seconds", pace and pace * row["step"]) for row in rows]
        known = [s for s in clock if s is not None]
        samples = [row["step"] * self.batch_size for row in rows]
        return Curve(samples, known if len(known) == len(rows) else [], [row[key] for row in rows])

    @property
    def unfinished(self) -> str | None:
        """Why the run is unfinished, or None."""
        if self.results and self.has_checkpoint:
            return None
        planned = self.config["trainer"]["max_steps"]
        got = f"at step {self.steps:,}" + (f" of {planned:,}" if planned > 0 else "")
        failed = f"; it failed: {self.facts['failed']}" if self.facts.get("failed") else ""
        return f"{got}, {'with' if self.has_checkpoint else 'without'} a checkpoint{failed}"

    def other_data(self, other: "RunRecord") -> list[str]:
        """The settings in which the data of two runs differ; empty if the data are the same."""
        a, b = self.data_settings, other.data_settings
        return [key for key in a | b if a.get(key) != b.get(key)]

    def overrides(self) -> dict[str, str]:
        """The command-line overrides of the run, by key."""
        return {word.key: word.tail for word in map(read, self.facts.get("overrides", []))}


def read_metrics_json(file: Path) -> dict[str, Any] | None:
    """Read a metrics.json; log a warning and return None if it is damaged."""
    try:
        return files.read_json(file, METRICS, "It is left out")
    except files.Damaged as damage:
        log.warning(str(damage))
        return None


def find_runs(names: Sequence[str], outputs: str) -> list[RunRecord]:
    """Find runs by name.

    Raises:
        UserError: for a run that does not exist, has no checkpoint, or is named twice.
    """
    runs = [Run.find(str(name), outputs) for name in names]
    for run in runs:
        run.checkpoint("best")
    return with_short_names(runs)


def find_sweep(folder: str) -> tuple[list[RunRecord], list[str]]:
    """Find all runs below a folder, and a message for each job that is unfinished or was not started.

    Raises:
        UserError: if there is no such folder, or fewer than two runs in it.
    """
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"sweep_dir={folder} does not exist; use the folder of a sweep")
    found = sorted({file.parent.resolve(): file.parent for file in path.rglob(CONFIG)}.values(), key=natural_key)
    if len(found) < 2:
        raise UserError(f"sweep_dir={folder} must hold at least two runs (folders with a {CONFIG}), got {len(found)}")
    records, lines = of_this_version(with_short_names([Run(there) for there in found]))
    lines += [f"Run {r.name} is unfinished: {r.unfinished}." for r in records if r.unfinished]
    for sweep in sorted(path.rglob(SWEEP)):
        lines += unstarted_jobs(sweep.parent)
    return records, lines


def of_this_version(records: Sequence[RunRecord]) -> tuple[list[RunRecord], list[str]]:
    """The records of runs that can be loaded, and a line for each of an earlier version.

    Raises:
        OtherVersion: if fewer than two can be loaded; for the first that cannot.
    """
    kept, lines, others = [], [], []
    for record in records:
        try:
            assert record.config
            kept.append(record)
        except OtherVersion as error:
            others.append(error)
            log.warning(f"WARNING: skipped: {error}")
            lines.append(f"Run {record.name} is skipped: it is of an earlier version.")
    if others and len(kept) < 2:
        raise others[0]
    return (kept if len(kept) == len(records) else with_short_names([record.run for record in kept])), lines


def natural_key(path: Path) -> list[tuple[int, str]]:
    """A sort key that puts job 10 after job 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.parts]


def unstarted_jobs(sweep: Path) -> list[str]:
    """A message for each planned job without a run, with its error if it failed."""
    plan, errors = SweepPlan.read(sweep), {job.number: job.error for job in read_jobs(sweep)}
    missing = [n for n in range(len(plan.jobs)) if not (sweep / str(n) / CONFIG).is_file()]
    words = {n: " ".join(plan.swept_overrides(plan.jobs[n])) for n in missing}
    return [
        f"Run {n} failed: {words[n]}: {errors[n]}." if errors.get(n) else f"Run {n} was not started: {words[n]}."
        for n in missing
    ]


def with_short_names(runs: Sequence[Run]) -> list[RunRecord]:
    """Make records whose names omit the common beginning of their paths.

    Raises:
        UserError: for fewer than two runs, or a run that is named twice.
    """
    paths = [run.path.resolve() for run in runs]
    if len(paths) < 2:
        raise UserError(f"runs must name at least two runs, got {len(paths)}")
    for path, times in Counter(paths).items():
        if times > 1:
            raise UserError(f"{path} is named twice; name each run once")
    parts = [list(path.parts) for path in paths]
    while len({p[0] for p in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [p[1:] for p in parts]
    return [RunRecord(run, "/".join(p)) for run, p in zip(runs, parts, strict=True)]


def check_same_data(records: Sequence[RunRecord], allowed: bool) -> None:
    """Check that all runs were trained on the same data, unless different data are allowed.

    Raises:
        UserError: for two runs with different data.
    """
    first = records[0]
    for record in records[1:]:
        keys = record.other_data(first)
        if keys and not allowed:
            kinds = [r.config["data"]["_target_"].rpartition(".")[2] for r in (first, record)]
            what = " and ".join(kinds) if kinds[0] != kinds[1] else f"{kinds[0]} with different {', '.join(keys)}"
            raise UserError(
                f"{first.name} and {record.name} were trained on different data ({what}); "
                "set allow_different_data=true to compare them anyway"
            )

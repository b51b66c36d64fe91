"""What run folders hold that can be compared, and which of them a command line means."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from src.loggers.metrics_csv import Row, read_metrics
from src.runs.data_identity import identifying_settings
from src.runs.run import CONFIG, OtherVersion, Run
from src.runs.sweep import SWEEP, Plan, read_jobs
from src.utils import files
from src.utils.console import log
from src.utils.errors import UserError
from src.utils.override_syntax import read

# What metrics.json says, as far as others rely on it.
NUMBER, TEXT = (float, type(None)), (str, type(None))
METRIC = {"value": NUMBER, "low?": NUMBER, "high?": NUMBER, "real_baseline?": NUMBER, "better?": TEXT, "name?": TEXT}
METRICS = {"n?": int, "nfe?": NUMBER, "seconds?": NUMBER, "features?": TEXT, "key?": TEXT, "metrics?": {"*": METRIC}}


class Curve(NamedTuple):
    """What a run logged, against training samples and against seconds; none of these where they are unknown."""

    samples: list[float]
    seconds: list[float]
    values: list[float]


@dataclass
class Record:
    """A run folder, read.

    Attributes:
        run: where it is.
        name: a short one, its own among those that it is compared with.
    """

    run: Run
    name: str
    facts: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.facts = self.run.metadata()

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config, in which the folders of this one run have the same names as those of any other."""
        return self.run.portable_settings()

    @cached_property
    def data_settings(self) -> dict[str, Any]:
        """The settings and the hash of files that identify the data of the run."""
        return identifying_settings(self.config["data"], (self.facts.get("data_identity") or {}).get("files"))

    @cached_property
    def rows(self) -> list[Row]:
        """Those of metrics.csv."""
        file = self.run.path / "metrics.csv"
        return read_metrics(file) if file.is_file() else []

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """What src.evaluate wrote of samples of the run, the newest first; measures of the same samples together."""
        found: dict[tuple[Any, Any], dict[str, Any]] = {}
        files = self.run.path.glob("evaluations/*/metrics.json")
        for file in sorted(files, key=lambda f: -f.stat().st_mtime):
            read = read_json(file)
            if read and not read.get("samples_path"):
                same = found.setdefault((read.get("key", file), read.get("features")), read)
                same["metrics"] = read.get("metrics", {}) | same.get("metrics", {})
        return list(found.values())

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def results(self) -> dict[str, Any] | None:
        """What came out, or None of a run that did not come to its end."""
        return self.facts.get("results")

    @property
    def has_checkpoint(self) -> bool:
        return (self.run.checkpoints / "best.ckpt").is_file()

    @property
    def steps(self) -> int:
        """Optimizer steps made."""
        return self.results["steps"] if self.results else max((row["step"] for row in self.rows), default=0)  # type: ignore[return-value]

    @property
    def batch_size(self) -> int:
        """Samples for one optimizer step."""
        return self.config["data"]["batch_size"] * self.config["trainer"].get("accumulate_grad_batches", 1)

    def curve(self, key: str) -> Curve:
        """A logged value over training, where the run logged it."""
        rows = [row for row in self.rows if key in row]
        results = self.results or {}
        pace = results["seconds"] / results["steps"] if results.get("steps") else None
        clock = [row.get("train/seconds", pace and pace * row["step"]) for row in rows]
        known = [s for s in clock if s is not None]
        samples = [row["step"] * self.batch_size for row in rows]
        return Curve(samples, known if len(known) == len(rows) else [], [row[key] for row in rows])

    @property
    def unfinished(self) -> str | None:
        """What is missing of this run, or None."""
        if self.results and self.has_checkpoint:
            return None
        planned = self.config["trainer"]["max_steps"]
        got = f"at step {self.steps:,}" + (f" of {planned:,}" if planned > 0 else "")
        failed = f"; it failed: {self.facts['failed']}" if self.facts.get("failed") else ""
        return f"{got}, {'with' if self.has_checkpoint else 'without'} a checkpoint{failed}"

    def other_data(self, other: "Record") -> list[str]:
        """The settings in which its data differ from those of another run; none where they are the same."""
        a, b = self.data_settings, other.data_settings
        return [key for key in a | b if a.get(key) != b.get(key)]

    def overrides(self) -> dict[str, str]:
        """What was typed to start it, by key."""
        return {word.key: word.tail for word in map(read, self.facts.get("overrides", []))}


def read_json(file: Path) -> dict[str, Any] | None:
    """What a file holds; None, and a line that says so, where it is cut off."""
    try:
        return files.read_json(file, METRICS, "It is left out")
    except files.Damaged as damage:
        log.warning(str(damage))
        return None


def find_runs(names: Sequence[str], outputs: str) -> list[Record]:
    """The runs that are named.

    Raises:
        UserError: for one that is not there, has no checkpoint, or is named twice.
    """
    runs = [Run.find(str(name), outputs) for name in names]
    for run in runs:
        run.checkpoint("best")
    return with_names(runs)


def find_sweep(folder: str) -> tuple[list[Record], list[str]]:
    """All runs below a folder, and of those that are not there, or not at their end, a line each.

    Raises:
        UserError: where there is no such folder.
    """
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"sweep_dir={folder}: there is no such folder")
    found = sorted({file.parent.resolve(): file.parent for file in path.rglob(CONFIG)}.values(), key=natural)
    records, lines = of_this_version(with_names([Run(there) for there in found]))
    lines += [f"Run {r.name} is unfinished: {r.unfinished}." for r in records if r.unfinished]
    for sweep in sorted(path.rglob(SWEEP)):
        lines += not_begun(sweep.parent)
    return records, lines


def of_this_version(records: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """The records of runs that can be loaded, and a line for each of an earlier version.

    Raises:
        UserError: if fewer than two can be loaded.
    """
    kept, lines = [], []
    for record in records:
        try:
            assert record.config
            kept.append(record)
        except OtherVersion as error:
            log.warning(f"WARNING: skipped: {error}")
            lines.append(f"Run {record.name} is skipped: it is of an earlier version.")
    return (kept if len(kept) == len(records) else with_names([record.run for record in kept])), lines


def natural(path: Path) -> list[tuple[int, str]]:
    """A key that sorts job 10 after job 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.parts]


def not_begun(sweep: Path) -> list[str]:
    """A line for each job that a sweep planned and that has no run, with the error where it failed."""
    plan, errors = Plan.read(sweep), {job.number: job.error for job in read_jobs(sweep)}
    missing = [n for n in range(len(plan.jobs)) if not (sweep / str(n) / CONFIG).is_file()]
    words = {n: " ".join(plan.own_words(plan.jobs[n])) for n in missing}
    return [
        f"Run {n} failed: {words[n]}: {errors[n]}." if errors.get(n) else f"Run {n} was not started: {words[n]}."
        for n in missing
    ]


def with_names(runs: Sequence[Run]) -> list[Record]:
    """Records under names without what all their paths begin and end with.

    Raises:
        UserError: where there are fewer than two, or one is there twice.
    """
    paths = [run.path.resolve() for run in runs]
    if len(paths) < 2:
        raise UserError(f"a comparison wants at least two runs, not {len(paths)}")
    for path, times in Counter(paths).items():
        if times > 1:
            raise UserError(f"{path} is named twice")
    parts = [list(path.parts) for path in paths]
    while len({p[0] for p in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [p[1:] for p in parts]
    return [Record(run, "/".join(p)) for run, p in zip(runs, parts, strict=True)]


def check_data(records: Sequence[Record], allowed: bool) -> None:
    """Refuse to compare runs of different data unless that is asked for.

    Raises:
        UserError: naming two runs and their data.
    """
    first = records[0]
    for record in records[1:]:
        keys = record.other_data(first)
        if keys and not allowed:
            kinds = [r.config["data"]["_target_"].rpartition(".")[2] for r in (first, record)]
            what = " and ".join(kinds) if kinds[0] != kinds[1] else f"{kinds[0]} with another {', '.join(keys)}"
            raise UserError(
                f"{first.name} and {record.name} were trained on different data ({what}); "
                "compare them all the same with allow_different_data=true"
            )

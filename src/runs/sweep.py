"""The plan and the jobs of a sweep, stored as files in its folder, which the processes of all launchers share."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from src.utils.atomic import write_json
from src.utils.console import format_duration
from src.utils.errors import UserError
from src.utils.files import Damaged, read_json, reading
from src.utils.override_syntax import read

SWEEP, JOBS = "sweep.json", "jobs"
NONE = type(None)
JOB = {"number": int, "overrides": [str], "state": str, "began": float, "ended": (float, NONE), "error": (str, NONE)}
PLAN = {
    "command": str,
    "overrides": [str],
    "hydra_overrides": [str],
    "swept": [str],
    "jobs": [[str]],
    "count": (int, NONE),
}


@dataclass
class Job:
    """One job of a sweep.

    Attributes:
        number: its index in the sweep.
        overrides: the overrides that differ between the jobs.
        state: its status; a job that was killed remains `running`.
        began, ended: times in seconds since 1970.
        value: the value of `sweep.objective`.
        error: the error of a failed job, in one line.
    """

    number: int
    overrides: list[str]
    state: Literal["running", "done", "failed", "stopped"] = "running"
    began: float = 0.0
    ended: float | None = None
    value: float | list[float] | None = None
    error: str | None = None

    def write(self, sweep: Path) -> None:
        """Write the job to the folder of the sweep."""
        write_json(sweep / JOBS / f"{self.number}.json", asdict(self))

    def end(self, sweep: Path, state: Literal["done", "failed", "stopped"], **outcome: Any) -> None:
        """Write its final state to the folder of the sweep, and set the other attributes given."""
        self.state, self.ended = state, time.time()
        for name, value in outcome.items():
            setattr(self, name, value)
        self.write(sweep)


def read_jobs(sweep: Path) -> list[Job]:
    """All jobs that the sweep has started, by number."""
    files = (sweep / JOBS).glob("[0-9]*.json")
    return sorted((read_record(Job, file, JOB, "Delete it") for file in files), key=lambda job: job.number)


def read_record(kind: Any, file: Path, wanted: dict[str, Any], advice: str) -> Any:
    """Read a dataclass from a JSON file.

    Args:
        kind: the dataclass.
        file: the file.
        wanted: the pattern of its content, for `read_json`.
        advice: what to do if it is damaged.
    """
    content = read_json(file, wanted, advice)
    with reading(file, advice):
        return kind(**content)


def remove_job_files(sweep: Path) -> None:
    """Remove the files of the jobs of an earlier start, and no others."""
    for file in (sweep / JOBS).glob("[0-9]*.json"):
        with suppress(Damaged):
            read_record(Job, file, JOB, "It is kept")
            file.unlink()


@lru_cache(maxsize=8)
def read_plan(path: str, inode: int, modified: int) -> dict[str, Any]:
    """Read the plan of a sweep, cached by the inode and time of its file, which is never changed in place."""
    return read_json(Path(path), PLAN, "Start the sweep again in another folder: finished runs are not repeated")


@dataclass
class SweepPlan:
    """The jobs of a sweep.

    Attributes:
        command: the command of its jobs, such as `train`.
        overrides, hydra_overrides: the overrides on the command line, those of the command and those of Hydra.
        swept: the keys that differ between the jobs.
        jobs: the overrides of each job; empty for a search, which chooses them as it goes.
        count: the number of jobs, if known.
    """

    command: str
    overrides: list[str]
    hydra_overrides: list[str]
    swept: list[str]
    jobs: list[list[str]]
    count: int | None

    def write(self, sweep: Path) -> None:
        """Write the plan to the folder of the sweep."""
        write_json(sweep / SWEEP, asdict(self))

    @classmethod
    def read(cls, sweep: Path) -> "SweepPlan":
        """The plan of the sweep in a folder."""
        file = sweep / SWEEP
        stat = file.stat()
        with reading(file, "Start the sweep again in another folder"):
            return cls(**read_plan(str(file), stat.st_ino, stat.st_mtime_ns))

    def swept_overrides(self, overrides: Sequence[str]) -> list[str]:
        """The overrides of a job whose keys are swept."""
        return [word for word in overrides if read(word).key in self.swept]


def is_sweep(folder: Path) -> bool:
    """True if a folder holds a sweep."""
    try:
        return bool(SweepPlan.read(folder))
    except (UserError, OSError):
        return False


class SweepProgress:
    """The progress of a sweep, after each of its jobs.

    For a sweep of many jobs, their files are read at most every few seconds; otherwise n jobs would read n^2 files.
    """

    many, pause = 100, 2.0

    def __init__(self) -> None:
        self.read: dict[Path, float] = {}

    def __call__(self, sweep: Path, plan: "SweepPlan") -> str:
        """The line of `progress`, in brackets; empty if it was returned a moment ago."""
        now = time.monotonic()
        if (plan.count or 0) > self.many and now - self.read.get(sweep, -self.pause) < self.pause:
            return ""
        self.read[sweep] = now
        return f"  ({progress(plan, read_jobs(sweep))})"


def progress(plan: SweepPlan, jobs: Sequence[Job]) -> str:
    """The progress of a sweep in one line: the jobs done, failed and running, and the time left.

    Args:
        plan: the plan of the sweep.
        jobs: the jobs that were started.
    """
    count = {state: sum(job.state == state for job in jobs) for state in ("done", "failed", "running")}
    parts = [f"{n} {state}" for state, n in count.items() if n or state == "done"]
    worked = [
        job for job in jobs if job.ended and job.ended - job.began > 1
    ]  # jobs done in an earlier start end at once
    if plan.count and worked:
        left = plan.count - count["done"] - count["failed"]
        since = min(job.began for job in worked)
        pace = (max(job.ended or 0 for job in worked) - since) / len(worked)
        spent = sum(time.time() - job.began for job in jobs if job.state == "running")
        seconds = max(0.0, pace * left - spent / max(1, count["running"]))
        if left:
            parts.append(f"about {format_duration(seconds)} left")
    return ", ".join(parts)

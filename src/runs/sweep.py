"""What is known of a sweep and its jobs: files in its folder, which any process of any launcher can write and read."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from src.utils.atomic import write_json
from src.utils.errors import UserError
from src.utils.files import Damaged, read_json, reading
from src.utils.override_syntax import read

SWEEP, JOBS = "sweep.json", "jobs"
NONE = type(None)
JOB = {"number": int, "words": [str], "state": str, "began": float, "ended": (float, NONE), "error": (str, NONE)}
PLAN = {"command": str, "words": [str], "hydra_words": [str], "swept": [str], "jobs": [[str]], "count": (int, NONE)}


@dataclass
class Job:
    """One job of a sweep.

    Attributes:
        number: its place in the sweep.
        words: the overrides that tell it from the others.
        state: what became of it; `running` also of one that was killed.
        began, ended: in seconds since 1970.
        value: what it returned.
        error: why it failed, in one line.
    """

    number: int
    words: list[str]
    state: Literal["running", "done", "failed", "stopped"] = "running"
    began: float = 0.0
    ended: float | None = None
    value: float | list[float] | None = None
    error: str | None = None

    def write(self, sweep: Path) -> None:
        """Leave it in the folder of the sweep."""
        write_json(sweep / JOBS / f"{self.number}.json", asdict(self))

    def end(self, sweep: Path, state: Literal["done", "failed", "stopped"], **outcome: Any) -> None:
        """Say in the folder of the sweep what became of it."""
        self.state, self.ended = state, time.time()
        for name, value in outcome.items():
            setattr(self, name, value)
        self.write(sweep)


def read_jobs(sweep: Path) -> list[Job]:
    """All jobs that were started since the sweep was, by number."""
    files = (sweep / JOBS).glob("[0-9]*.json")
    return sorted((read_record(Job, file, JOB, "Delete it") for file in files), key=lambda job: job.number)


def read_record(kind: Any, file: Path, wanted: dict[str, Any], advice: str) -> Any:
    """The dataclass that a file holds."""
    content = read_json(file, wanted, advice)
    with reading(file, advice):
        return kind(**content)


def forget_jobs(sweep: Path) -> None:
    """Remove what the jobs of an earlier start have left, and nothing else that lies there."""
    for file in (sweep / JOBS).glob("[0-9]*.json"):
        with suppress(Damaged):
            read_record(Job, file, JOB, "It is left there")
            file.unlink()


@lru_cache(maxsize=8)
def read_once(path: str, inode: int, modified: int) -> dict[str, Any]:
    """What the plan of a sweep holds, a file that is replaced when it changes, never written to."""
    return read_json(Path(path), PLAN, "Start the sweep again in another folder: finished runs are not repeated")


@dataclass
class Plan:
    """What a sweep is to do.

    Attributes:
        command: which command it runs, such as `train`.
        words, hydra_words: what was typed, for the command itself and for Hydra.
        swept: the settings that differ between the jobs.
        jobs: the overrides of each, where they are known before; searches choose as they go.
        count: how many there will be, where that is known.
    """

    command: str
    words: list[str]
    hydra_words: list[str]
    swept: list[str]
    jobs: list[list[str]]
    count: int | None

    def write(self, sweep: Path) -> None:
        """Leave it in the folder of the sweep."""
        write_json(sweep / SWEEP, asdict(self))

    @classmethod
    def read(cls, sweep: Path) -> "Plan":
        """The plan of the sweep in a folder."""
        file = sweep / SWEEP
        stat = file.stat()
        with reading(file, "Start the sweep again in another folder"):
            return cls(**read_once(str(file), stat.st_ino, stat.st_mtime_ns))

    def own_words(self, overrides: Sequence[str]) -> list[str]:
        """Those of the overrides of a job that tell it from the others."""
        return [word for word in overrides if read(word).key in self.swept]


def is_sweep(folder: Path) -> bool:
    """Whether a sweep has begun in a folder."""
    try:
        return bool(Plan.read(folder))
    except (UserError, OSError):
        return False


class Progress:
    """How far a sweep is, after each job.

    Of a sweep of many jobs all their files are read at most every few seconds: n jobs would else take n^2 readings.
    """

    many, pause = 100, 2.0

    def __init__(self) -> None:
        self.read: dict[Path, float] = {}

    def __call__(self, sweep: Path, plan: "Plan") -> str:
        """What `progress` says, in brackets; nothing where it was said just now."""
        now = time.monotonic()
        if (plan.count or 0) > self.many and now - self.read.get(sweep, -self.pause) < self.pause:
            return ""
        self.read[sweep] = now
        return f"  ({progress(plan, read_jobs(sweep))})"


def progress(plan: Plan, jobs: Sequence[Job]) -> str:
    """How far a sweep is, in one line: what is done, failed and running, and the time left.

    Args:
        plan: what it is to do.
        jobs: those that were started.
        began: when it began, in seconds since 1970.
    """
    count = {state: sum(job.state == state for job in jobs) for state in ("done", "failed", "running")}
    parts = [f"{n} {state}" for state, n in count.items() if n or state == "done"]
    worked = [job for job in jobs if job.ended and job.ended - job.began > 1]  # those done before end at once
    if plan.count and worked:
        left = plan.count - count["done"] - count["failed"]
        since = min(job.began for job in worked)
        pace = (max(job.ended or 0 for job in worked) - since) / len(worked)
        spent = sum(time.time() - job.began for job in jobs if job.state == "running")
        seconds = max(0.0, pace * left - spent / max(1, count["running"]))
        if left:
            parts.append(f"about {duration(seconds)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """A length of time in the unit that suits it."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"

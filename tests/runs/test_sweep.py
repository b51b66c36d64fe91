"""What is known of a sweep while it runs."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from src.runs.sweep import Job, SweepPlan, SweepProgress, progress, read_jobs
from src.utils.console import format_duration

PLAN = SweepPlan("train", ["seed=1,2,3,4"], [], ["seed"], [[f"seed={n}"] for n in (1, 2, 3, 4)], 4)


def test_jobs_are_read_as_they_were_written(tmp_path):
    jobs = [Job(10, ["seed=1"], began=1.0), Job(9, ["seed=2"], "failed", 1.0, 2.0, error="no")]
    for job in jobs:
        job.write(tmp_path)
    assert read_jobs(tmp_path) == jobs[::-1]
    jobs[0].end(tmp_path, "done", value=[1.0, 2.0])
    assert read_jobs(tmp_path)[1].value == [1.0, 2.0] and read_jobs(tmp_path)[1].ended > 1
    PLAN.write(tmp_path)
    assert SweepPlan.read(tmp_path) == PLAN
    assert PLAN.swept_overrides(["experiment=x", "+seed=3", "seedling=1"]) == ["+seed=3"]


@pytest.mark.parametrize(("n", "reads"), [(20, 2 * 20), (400, 3)])
def test_many_jobs_are_not_all_read_after_each(tmp_path, monkeypatch, n, reads):
    """Of a few jobs the progress is said after each; of many every two seconds, of which they take four."""
    plan = SweepPlan("train", [], [], ["seed"], [[f"seed={i}"] for i in range(n)], n)
    plan.write(tmp_path)
    read, how_far, now = [], SweepProgress(), [0.0]
    monkeypatch.setattr("src.runs.sweep.read_jobs", lambda sweep: read.append(sweep) or [])
    monkeypatch.setattr("src.runs.sweep.time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    said = []
    for _ in range(2 * n):
        said.append(how_far(tmp_path, plan))
        now[0] += 4.1 / (2 * n)
    assert len(read) == reads == len([text for text in said if text == "  (0 done)"])


def test_a_plan_is_read_again_only_when_it_has_changed(tmp_path, monkeypatch):
    text, reads = Path.read_text, []
    monkeypatch.setattr(Path, "read_text", lambda path, *a, **k: reads.append(path.name) or text(path, *a, **k))
    PLAN.write(tmp_path)
    assert [SweepPlan.read(tmp_path) for _ in range(9)] == [PLAN] * 9 and len(reads) == 1
    other = SweepPlan("train", [], [], [], [], 7)
    other.write(tmp_path)
    assert SweepPlan.read(tmp_path) == other and len(reads) == 2


@pytest.mark.parametrize(
    ("done", "failed", "before", "left"),
    [(0, 0, 0, None), (1, 0, 0, 180), (2, 1, 0, 60), (3, 0, 0, 60), (1, 0, 2, 60), (0, 0, 3, None), (3, 1, 0, None)],
)
def test_time_left(done, failed, before, left):
    """As long as each job took that ended, for each that is left; those that were done before take none."""
    states = ["done"] * (done + failed)
    jobs = [Job(n, [], state, 60.0 * n, 60.0 * (n + 1)) for n, state in enumerate(states)]
    for job in jobs[:failed]:
        job.state = "failed"
    jobs += [Job(100 + n, [], "done", 0.0, 0.1) for n in range(before)]
    said = progress(PLAN, jobs)
    assert said.startswith(f"{done + before} done") and (f"{failed} failed" in said) == bool(failed)
    assert (f"about {format_duration(left)} left" in said) if left else ("left" not in said)


def test_what_a_running_job_has_done_counts(monkeypatch):
    now = 1000.0
    monkeypatch.setattr("src.runs.sweep.time", SimpleNamespace(time=lambda: now))
    jobs = [Job(0, [], "done", now - 90, now - 30), Job(1, [], "running", now - 30)]
    assert progress(PLAN, jobs) == f"1 done, 1 running, about {format_duration(3 * 60 - 30)} left"

"""Sweeps as a user runs them: done, failed, killed and gone on with."""

import csv
import json
import random
import shutil
import signal
from pathlib import Path

import pytest

from src.runs.sweep import read_jobs
from tests.end_to_end.running import POINTS, assert_same_run, forked

TINY = [
    *POINTS,
    "parameterization=v",
    "trainer.precision=32-true",
    "trainer.max_steps=6",
    "trainer.val_check_interval=3",
    "trainer.log_every_n_steps=1",
    "callbacks.checkpoint.every_n_steps=1",
]
SWEPT = ["-m", *TINY, "schedule=linear,cosine", "optimizer.lr=2e-3"]
# Columns of a comparison that say how fast a run was.
CLOCK = ("training s", "points/s")


def folder_of(outputs: Path) -> Path:
    """The one sweep there."""
    (folder,) = outputs.glob("sweeps/mixture_ddpm/*")
    return folder


def table_of(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "comparison/table.csv").open() as file:
        return [{k: v for k, v in row.items() if not k.startswith(CLOCK)} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, str]:
    outputs = tmp_path_factory.mktemp("undisturbed")
    done = forked(*SWEPT, f"paths.outputs={outputs}")
    assert done.returncode == 0, done.stderr
    return folder_of(outputs), done.stderr


def test_what_it_says(undisturbed):
    """A line for each job, the table, the best."""
    sweep, said = undisturbed
    jobs = read_jobs(sweep)
    assert [(job.number, job.state) for job in jobs] == [(n, "done") for n in range(2)]
    assert jobs[1].overrides == ["schedule=cosine"]
    for job in jobs:
        assert f"[job {job.number} of 2] {' '.join(job.overrides)}  done in" in said
        results = json.loads((sweep / str(job.number) / "run.json").read_text())["results"]
        assert job.value == results["best_val_loss"]
    assert "(1 done, 1 running" in said and "(2 done)" in said and "2 of 2 jobs done" in said
    assert len(table_of(sweep)) == 2 and (sweep / "comparison/comparison.html").is_file()


def assert_same_sweep(a: Path, b: Path) -> None:
    assert table_of(a) == table_of(b)
    for number in range(2):
        assert_same_run(a / str(number), b / str(number))


def test_a_killed_sweep_goes_on_to_the_same_table(undisturbed, tmp_path):
    """Killed with -9 in its second job, and started again by the same command."""
    words = [*SWEPT, f"paths.outputs={tmp_path}"]
    killed = forked(*words, kill_when=lambda: list(tmp_path.rglob("1/metrics.csv")))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = forked(*words, f"sweep.resume={folder_of(tmp_path)}")
    assert done.returncode == 0, done.stderr
    assert_same_sweep(undisturbed[0], folder_of(tmp_path))


@pytest.mark.slow
def test_a_sweep_killed_again_and_again_goes_on_to_the_same_table(undisturbed, tmp_path):
    """Killed with -9 at random points, and started again by the same command each time."""
    moments, words, kills = random.Random(10), [*SWEPT, f"paths.outputs={tmp_path}"], 0
    for start in range(10):
        resume = [f"sweep.resume={folder_of(tmp_path)}"] if start else []
        began = [plan.stat().st_mtime for plan in tmp_path.rglob("sweep.json")]
        killed = forked(
            *words,
            *resume,
            kill_when=lambda began=began: [p.stat().st_mtime for p in tmp_path.rglob("sweep.json")] != began,
            later=moments.uniform(0.1, 1.0),
        )
        kills += killed.returncode == -signal.SIGKILL
        assert killed.returncode in (0, -signal.SIGKILL), killed.stderr
    done = forked(*words, f"sweep.resume={folder_of(tmp_path)}")
    assert done.returncode == 0 and kills, done.stderr
    assert_same_sweep(undisturbed[0], folder_of(tmp_path))


def test_finished_jobs_are_known_by_their_settings(undisturbed, tmp_path):
    """Not by their numbers: with other values the sweep runs the new job alone, in a folder of its own."""
    sweep = Path(shutil.copytree(undisturbed[0], tmp_path / "sweeps/mixture_ddpm/copy"))
    before = {n: (sweep / f"{n}/checkpoints/last.ckpt").stat().st_mtime for n in range(2)}
    words = ["-m", *TINY, f"paths.outputs={tmp_path}", "schedule=flow,cosine", "optimizer.lr=2e-3"]
    done = forked(*words, f"sweep.resume={sweep}")
    assert done.returncode == 0, done.stderr
    assert [job.state for job in read_jobs(sweep)] == ["done", "done"]
    assert before == {n: (sweep / f"{n}/checkpoints/last.ckpt").stat().st_mtime for n in range(2)}
    assert json.loads((sweep / "2/run.json").read_text())["results"]["steps"] == 6
    assert not (sweep / "3").exists()


def test_a_job_that_fails_ends_only_itself(tmp_path):
    """One is refused, one breaks while it trains; both are listed, and tried again on request."""
    broken = "+callbacks.fault._target_=tests.helpers.faults.PoisonAt"
    words = ["-m", *TINY, f"paths.outputs={tmp_path}", "parameterization=v,eps", "schedule=flow", "weighting=uniform"]
    done = forked(*words, broken, "+callbacks.fault.step=2,100")
    sweep = folder_of(tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    jobs = read_jobs(sweep)
    assert [job.state for job in jobs] == ["failed", "done", "failed", "failed"]
    assert "not finite at step 3" in jobs[0].error and "divides by alpha" in jobs[2].error
    assert "1 of 4 jobs done" in done.stderr and f"sweep.resume={sweep} sweep.retry=true" in done.stderr
    again = forked("-m", f"sweep.resume={sweep}", "trust=true")
    assert again.returncode == 1
    assert "failed in an earlier start of the sweep: the loss is not finite at step 3" in read_jobs(sweep)[0].error
    one = [*words, "parameterization=v", broken, "+callbacks.fault.step=2", f"sweep.resume={sweep}"]
    assert forked(*one, "sweep.retry=true").returncode == 1
    assert read_jobs(sweep)[0].error.startswith("the loss is not finite")


def test_ctrl_c_ends_the_sweep_and_says_how_it_goes_on(tmp_path):
    words = ["-m", *TINY, "trainer.max_steps=100000", "seed=1,2", f"paths.outputs={tmp_path}"]
    stopped = forked(*words, kill_when=lambda: list(tmp_path.rglob("metrics.csv")), number=signal.SIGINT)
    sweep = folder_of(tmp_path)
    assert stopped.returncode == 130, stopped.stderr
    assert f"python -m src.train -m sweep.resume={sweep}" in stopped.stderr and "Traceback" not in stopped.stderr
    assert [job.state for job in read_jobs(sweep)] == ["stopped"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["sweep.resume=nowhere"], ["sweep.resume=nowhere", "holds no sweep"]),
        (["sweep=schedulez"], ["sweep=schedulez", "Did you mean schedules?"]),
        (["sweep.rezume=x"], ["sweep.rezume", "Did you mean sweep.resume?"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_a_mistake_gets_one_line(words, parts, tmp_path):
    done = forked("-m", *TINY, *words, f"paths.outputs={tmp_path}")
    assert done.returncode == 1
    line = done.stderr.strip()
    assert line.startswith("error: ") and "\n" not in line and all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("objective", "part"), [("best_loss", "is no result of a run"), ("[steps,quality/nfe]", "callbacks=quality only")]
)
def test_what_is_not_measured_cannot_be_looked_for(objective, part, tmp_path):
    done = forked(*TINY, f"sweep.objective={objective}", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 1 and part in done.stderr and not (tmp_path / "run").exists()

"""Run folders are read as they are: whole, half done, moved, missing."""

import os
import shutil

import pytest

from src.commands.compare.records import check_same_data, find_runs, find_sweep, with_short_names
from src.runs.sweep import Job, SweepPlan
from src.utils.errors import UserError

JOBS = [[f"optimizer.lr={lr}", f"seed={seed}"] for lr in ("1e-4", "3e-4") for seed in (1, 2)]
PLAN = SweepPlan("train", ["optimizer.lr=1e-4,3e-4", "seed=1,2"], [], ["optimizer.lr", "seed"], JOBS, 4)


def test_runs_by_name(write_run, tmp_path):
    write_run("train/a"), write_run("train/b")
    found = find_runs([f"{tmp_path}/train/a", f"{tmp_path}/train/b"], str(tmp_path))
    assert [r.name for r in found] == ["a", "b"] and [r.seed for r in found] == [0, 0]


def test_names_tell_runs_apart(write_run):
    runs = [write_run(name).run for name in ("x/sine/1", "x/sine/2", "x/mnist/1")]
    assert [r.name for r in with_short_names(runs)] == ["sine/1", "sine/2", "mnist/1"]


def test_a_moved_run_has_the_config_of_before(write_run, tmp_path):
    record = write_run("a")
    before = record.config
    shutil.move(tmp_path / "a", tmp_path / "elsewhere")
    other = write_run("a")
    moved = with_short_names([other.run, type(other.run)(tmp_path / "elsewhere")])[1]
    assert moved.config == before == other.config and before["callbacks"]["graceful_stop"]["run"] == "RUN"


def test_a_half_finished_sweep(write_run, tmp_path):
    """Jobs in the order of their numbers; what is not there, or not done, gets a line each."""
    write_run("0", seed=1)
    write_run("1", seed=2, finished=False)
    write_run("10", finished=False, checkpoint=False)
    PLAN.write(tmp_path)
    Job(3, [], "failed", error="no reason").write(tmp_path)
    records, lines = find_sweep(str(tmp_path))
    assert [r.name for r in records] == ["0", "1", "10"]
    assert lines == [
        "Run 1 is unfinished: at step 100 of 100, with a checkpoint.",
        "Run 10 is unfinished: at step 100 of 100, without a checkpoint.",
        "Run 2 was not started: optimizer.lr=3e-4 seed=1.",
        "Run 3 failed: optimizer.lr=3e-4 seed=2: no reason.",
    ]


def test_runs_of_an_earlier_version_are_skipped(write_run, tmp_path):
    for name in "abc":
        write_run(name)
    (tmp_path / "b/config.yaml").write_text("name: old")
    records, lines = find_sweep(str(tmp_path))
    assert [r.name for r in records] == ["a", "c"] and lines == ["Run b is skipped: it is of an earlier version."]


def test_a_search_has_no_planned_jobs(write_run, tmp_path):
    write_run("0"), write_run("1")
    SweepPlan("train", [], [], ["seed"], [], 9).write(tmp_path)
    assert find_sweep(str(tmp_path))[1] == []


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"data__batch_size": 8}, True),
        ({"data__n": 2000}, False),
        ({"data__val_size": 20}, False),
        ({"data__root": "/elsewhere"}, False),
        ({"data__root": "/elsewhere", "data__sha256": {"train": "abc"}}, True),
        ({"data": {"_target_": "src.data.mnist.MNIST", "batch_size": 64, "seed": 0}}, False),
    ],
    ids=str,
)
def test_different_data(write_run, changes, same):
    """Read differently, it is the same; drawn differently, or from other files, it is not."""
    shared = {"data__sha256": {"train": "abc"}} if "data__sha256" in changes else {}
    records = [write_run("a", **shared), write_run("b", **changes)]
    check_same_data(records, allowed=True)
    if same:
        check_same_data(records, allowed=False)
    else:
        with pytest.raises(UserError, match=r"a and b .*allow_different_data=true"):
            check_same_data(records, allowed=False)


def test_the_same_files_are_the_same_data_wherever_they_lie(write_run):
    records = [write_run(name, data__root=f"/{name}") for name in "abc"]
    for record, files in zip(records, ("x", "x", "y"), strict=True):
        record.facts["data_identity"] = {"files": files}
    check_same_data(records[:2], allowed=False)
    with pytest.raises(UserError, match="different files"):
        check_same_data(records[1:], allowed=False)


def test_curves_against_samples_and_seconds(write_run):
    curve = write_run("a", losses=(0.5, 0.25, 0.2), seconds=30).curve("val/loss_ema")
    assert curve.samples == [3200, 6400, 9600] and curve.seconds == [10, 20, 30] and curve.values == [0.5, 0.25, 0.2]
    unfinished = write_run("b", finished=False).curve("val/loss_ema")
    assert unfinished.seconds == [] and unfinished.values == [0.5, 0.25]
    assert write_run("c").curve("quality/frechet_distance").values == []
    logged = write_run("d")
    (logged.run.path / "metrics.csv").write_text("step,train/seconds,val/loss_ema\n5,1.5,0.5\n9,2.5,0.25\n")
    assert logged.curve("val/loss_ema").seconds == [1.5, 2.5]


def test_measures_of_the_same_samples_come_together(write_run):
    """The newer number of each; those of other samples, other features or a file of samples stay apart."""
    same = {"key": "abc", "features": "f"}
    there = {
        "old": same | {"metrics": {"frechet_distance": {"value": 3}, "recall": {"value": 1}}},
        "new": same | {"metrics": {"frechet_distance": {"value": 2}}},
        "other features": same | {"features": "g", "metrics": {"frechet_distance": {"value": 9}}},
        "other samples": same | {"key": "def", "metrics": {"frechet_distance": {"value": 8}}},
        "given": same | {"samples_path": "file.npz", "metrics": {"frechet_distance": {"value": 7}}},
    }
    record = write_run("a", evaluations=there)
    for age, place in enumerate(["new", "old", "other features", "other samples", "given"]):
        os.utime(record.run.path / "evaluations" / place / "metrics.json", (1000 - age, 1000 - age))
    found = [e["metrics"] for e in record.evaluations]
    assert found == [
        {"frechet_distance": {"value": 2}, "recall": {"value": 1}},
        {"frechet_distance": {"value": 9}},
        {"frechet_distance": {"value": 8}},
    ]


def test_evaluations_the_newest_first_without_broken_ones(write_run):
    record = write_run("a", evaluations={"one": {"n": 1}, "two": {"n": 2}, "three": {"n": 3}})
    for age, place in enumerate(("three", "one", "two")):
        os.utime(record.run.path / "evaluations" / place / "metrics.json", (1000 - age, 1000 - age))
    (record.run.path / "evaluations/two/metrics.json").write_text('{"n": ')
    assert [e["n"] for e in record.evaluations] == [3, 1]

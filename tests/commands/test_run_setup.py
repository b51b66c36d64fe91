"""Which run a start is, and where."""

import copy
import os

import pytest

from src.commands.run_dir import new_job_dir, sibling_runs
from src.commands.run_setup import run_key, run_results
from src.runs.run import Run
from src.utils.errors import UserError

PLAIN = {
    "seed": 0,
    "paths": {"run": "/a/train/1", "outputs": "/a", "data": "/a/data"},
    "net": {"width": 8},
    "callbacks": {"graceful_stop": {"run": "/a/train/1"}},
    "resume": None,
    "sweep": {"retry": False},
}


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"resume": "/a/train/1", "auto_resume": True, "sweep": {"retry": True}}, True),
        ({"paths": {"run": "/b/x", "outputs": "/b"}, "callbacks": {"graceful_stop": {"run": "/b/x"}}}, True),
        ({"callbacks": {"graceful_stop": {"run": "/elsewhere"}}}, False),
        ({"seed": 1}, False),
        ({"net": {"width": 16}}, False),
        ({"net": {"width": 8, "depth": 1}}, False),
    ],
)
def test_a_run_is_its_settings(changes, same):
    """Wherever it lies, and however it is started."""
    assert (run_key(copy.deepcopy(PLAIN) | changes) == run_key(PLAIN)) == same


def test_the_next_folder_of_a_sweep(tmp_path):
    (tmp_path / "empty").mkdir()
    assert new_job_dir(tmp_path / "empty") == str(tmp_path / "empty/0")
    for name in ("0", "1", "10", "jobs"):
        (tmp_path / name).mkdir()
    assert [new_job_dir(tmp_path) for _ in range(2)] == [str(tmp_path / "11"), str(tmp_path / "12")]


@pytest.mark.parametrize("begun", [True, False])
def test_the_newest_of_the_runs_beside_it_comes_first(tmp_path, begun):
    """After the one in its own folder, if there is any; other folders are none."""
    (tmp_path / "other").mkdir()
    for i, name in enumerate(["b", "d", "a", "own", "c"]):
        run = Run(tmp_path / name)
        run.update_metadata(key=name)
        os.utime(tmp_path / name / "run.json", (i, i))
    if begun:
        (tmp_path / "own/config.yaml").write_text("seed: 0")
    found = [run.path.name for run in sibling_runs(Run(tmp_path / "own"))]
    assert found == [*["own"] * begun, "c", "a", "d", "b"]


def test_what_a_search_looks_at(tmp_path):
    run = Run(tmp_path)
    run.update_metadata(
        parameters=7,
        results={"steps": 1, "seconds": 1.0, "best_val_loss": 0.5, "quality/nfe": 10, "verdict": "good", "none": None},
    )
    assert run_results("best_val_loss", run) == 0.5
    assert run_results(["best_val_loss", "quality/nfe", "parameters"], run) == [0.5, 10.0, 7.0]
    assert run_results("none", run) is None, "as the loss of a run that was never validated"
    for wrong in ("quality", ["best_val_loss", "verdict"]):
        with pytest.raises(UserError, match="best_val_loss, quality/nfe, none, parameters"):
            run_results(wrong, run)

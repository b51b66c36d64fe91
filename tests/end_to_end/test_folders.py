"""A command writes into new folders and its own, and deletes nothing that it did not write."""

import json
import os
import shutil
from pathlib import Path

import pytest

from src.loggers.metrics_csv import read_metrics
from src.runs.sweep import Job, SweepPlan, read_jobs

SMALL = ["experiment=digits_ddpm", "trainer=cpu", "debug=two_steps", "net.width=8", "callbacks.sample_images=null"]
REFUSED = ["optimizer.lr=fast"]  # a mistake that only the check of the settings finds


def contents(folder: Path) -> dict[str, bytes | None]:
    """All that is in a folder, by its path there."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture(scope="module")
def trained(make_run, tmp_path_factory) -> Path:
    """A finished run."""
    return make_run(tmp_path_factory.mktemp("trained") / "run", *SMALL)


@pytest.fixture
def foreign(tmp_path, monkeypatch) -> Path:
    """A folder of the user's, with what a run might take for its own; commands start beside it."""
    folder = tmp_path / "mine"
    for name in (".git/HEAD", "thesis.tex", "jobs/notes.txt", "checkpoints/model.ckpt", "samples/a.png", "train.log"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFUSION_LAB_OUTPUTS", str(tmp_path / "outputs"))
    return folder


@pytest.mark.parametrize(
    ("name", "start"), [("mine", []), ("mine", REFUSED), ("link", ["auto_resume=true"]), (".", ["auto_resume=true"])]
)
def test_a_foreign_folder_is_refused(command, foreign, name, start):
    before = contents(foreign)
    for _ in range(2 if start == REFUSED else 1):
        if name == ".":
            os.chdir(foreign)
        done = command("train", *SMALL, *start, f"hydra.run.dir={name}")
        said = [line for line in done.error.splitlines() if line.startswith("error: ")]
        assert done.code == 1 and len(said) == 1, done.error
        assert start == REFUSED or ("is not empty: it holds .git and 5 more" in said[0]), said
        assert contents(foreign) == before


@pytest.mark.parametrize(
    ("file", "text"),
    [("run.json", '{"a": 1}'), ("config.yaml", "{}"), (".lock", "x"), ("sweep.json", '{"a": 1}')],
)
def test_a_file_of_the_same_name_does_not_make_it_ours(command, foreign, file, text):
    shutil.rmtree(foreign)
    foreign.mkdir()
    (foreign / file).write_text(text)
    (foreign / "thesis.tex").write_text("years")
    before = contents(foreign)
    assert command("train", *SMALL, "auto_resume=true", "hydra.run.dir=mine").code == 1
    if file.endswith(".json"):
        assert command("train", "-m", *SMALL, "hydra.sweep.dir=mine").code == 1
    assert contents(foreign) == before


@pytest.mark.parametrize(
    ("words", "empty"),
    [(["hydra.run.dir="], False), (["plan=local", "hydra.run.dir="], True), (["-m", "hydra.sweep.dir="], True)],
)
def test_an_empty_name_is_not_the_working_directory(command, foreign, words, empty):
    here = foreign.parent / "empty" if empty else foreign
    here.mkdir(exist_ok=True)
    os.chdir(here)
    before = contents(here)
    done = command("train", *SMALL, *words)
    assert done.code == 1 and f"error: {words[-1]} is empty" in done.error, done.error
    assert here.is_dir() and contents(here) == before


@pytest.mark.parametrize("name", ["mine", "link"])
def test_a_sweep_leaves_a_foreign_folder_alone(command, foreign, name):
    before = contents(foreign)
    done = command("train", "-m", *SMALL, *REFUSED, f"hydra.sweep.dir={name}")
    assert done.code == 1 and f"error: hydra.sweep.dir={foreign.parent / name} is not empty" in done.error
    assert contents(foreign) == before


def test_a_sweep_begins_anew_beside_what_others_put_there(command, foreign):
    """Of its own it removes what the earlier jobs had said, and nothing else."""
    sweep = foreign.parent / "sweep"
    SweepPlan("train", [], [], [], [], 1).write(sweep)
    Job(7, ["seed=7"]).write(sweep)
    for name in ("jobs/notes.txt", "jobs/9.txt"):
        (sweep / name).write_text("{}")
    before = contents(sweep)
    assert command("train", "-m", *SMALL, *REFUSED, f"hydra.sweep.dir={sweep}").code == 1
    after = contents(sweep)
    assert {k for k in before if k not in after} == {"jobs/7.json"}
    assert all(after[k] == v for k, v in before.items() if k not in ("jobs/7.json", "sweep.json"))


def test_jobs_whose_folders_have_no_numbers(command, foreign):
    """A job whose folder has other files, or another job's, gets the next number."""
    words = ["-m", *SMALL, "hydra.sweep.dir=sweep", "hydra.sweep.subdir=seed_${seed}"]
    sweep = foreign.parent / "sweep"
    SweepPlan("train", [], [], [], [], 1).write(sweep)
    shutil.copytree(foreign, sweep / "seed_1")
    before = contents(foreign)
    assert command("train", *words, "seed=1").code == 0
    assert contents(sweep / "seed_1") == before
    assert [job.state for job in read_jobs(sweep)] == ["done"] and (sweep / "0/run.json").is_file()


@pytest.mark.most(1)
@pytest.mark.parametrize("again", ["auto_resume", "resume"])
def test_what_was_added_to_a_run_outlives_its_start_anew(command, foreign, trained, again):
    """A run that was ended before its first checkpoint begins anew in its folder, and deletes nothing there."""
    start = [*SMALL, "hydra.run.dir=run", "auto_resume=true"]
    run = shutil.copytree(trained, foreign.parent / "run")
    rows = read_metrics(run / "metrics.csv")
    shutil.rmtree(run / "checkpoints")
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({k: facts[k] for k in ("key", "overrides")}))
    shutil.copytree(foreign, run, dirs_exist_ok=True)
    shutil.rmtree(run / "checkpoints")  # whose names are those of a checkpoint
    (run / "model-1.pt").write_text("x")
    added = {k: v for k, v in contents(run).items() if k in contents(foreign) and k != "train.log"}
    assert command("train", *(start if again == "auto_resume" else ["resume=run"])).code == 0
    assert added.items() <= contents(run).items() and (run / "model-1.pt").read_text() == "x"
    assert (run / "checkpoints/best.ckpt").is_file() and json.loads((run / "run.json").read_text())["results"]
    again = read_metrics(run / "metrics.csv")
    assert [row["step"] for row in again] == [row["step"] for row in rows]
    assert [row.get("train/loss") for row in again] == [row.get("train/loss") for row in rows]


def test_a_refused_run_leaves_no_folder(command, foreign):
    """Even where it had been taken and written to."""
    for words in (REFUSED, ["sweep.objective=quality/nfe"], ["data.batch_size=100000"]):
        assert command("train", *SMALL, *words, "hydra.run.dir=new").code == 1
        assert not (foreign.parent / "new").exists()


@pytest.mark.parametrize("left", [[".lock", ".run.123.json"], [".lock", "run.json", "train.log", "checkpoints/"]])
def test_a_folder_that_a_killed_start_has_left_is_free(command, foreign, left):
    """Whatever the settings are now."""
    run = foreign.parent / "run"
    run.mkdir()
    for name in left:
        (run / name).mkdir() if name.endswith("/") else (run / name).touch()
    if "run.json" in left:
        (run / "run.json").write_text('{"overrides": [], "key": "x"}')
    assert command("train", *SMALL, "hydra.run.dir=run").code == 0
    assert (run / "checkpoints/last.ckpt").is_file()


def test_a_damaged_record_beside_it_stops_no_run(command, foreign, caplog):
    outputs = foreign.parent / "outputs/train/digits_ddpm"
    for name, text in (("a", ""), ("b", "[]"), ("c", '{"key": ')):
        (outputs / name).mkdir(parents=True)
        (outputs / name / "run.json").write_text(text)
    done = command("train", *SMALL, "auto_resume=true")
    assert done.code == 0, done.error
    for name in "abc":
        assert f"{outputs / name / 'run.json'} " in caplog.text


def test_a_run_goes_on_without_its_damaged_record(command, foreign, trained):
    run = shutil.copytree(trained, foreign.parent / "run")
    (run / "run.json").write_text("")
    done = command("train", "resume=run", "trainer.max_steps=3")
    said = [line for line in done.error.splitlines() if line.startswith("error: ")]
    assert done.code == 1 and len(said) == 1 and "run/run.json" in said[0] and "Delete it" in said[0]
    (run / "run.json").unlink()
    assert command("train", "resume=run", "trainer.max_steps=3").code == 0
    facts = json.loads((run / "run.json").read_text())
    assert facts["results"]["steps"] == 3 and not any("resume" in word for word in facts["overrides"])
    assert read_metrics(run / "metrics.csv")[-1]["step"] == 3

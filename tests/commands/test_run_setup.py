"""Which run a start is, and where."""

import copy
import os
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from hydra import compose
from hydra.types import RunMode
from omegaconf import OmegaConf

from src.commands import run_dir
from src.commands.config import without_effect
from src.commands.run_dir import FailedBefore, find_run_dir, new_job_dir, pin_run_dir, sibling_runs
from src.commands.run_setup import run_key, run_results
from src.runs.run import Run
from src.utils.errors import UserError
from tests.helpers.composing import hydra as composing
from tests.helpers.composing import without_hydra
from tests.helpers.tiny import saved_config

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


def hydra(monkeypatch, mode):
    config = OmegaConf.create({"hydra": {"mode": mode, "run": {"dir": "x"}}})
    fake = SimpleNamespace(get=lambda: config.hydra, instance=lambda: SimpleNamespace(cfg=config))
    monkeypatch.setattr(run_dir, "HydraConfig", fake)
    return config


def test_a_folder_without_a_name_is_refused(monkeypatch):
    config = hydra(monkeypatch, RunMode.RUN)
    config.hydra.runtime = {"output_dir": "there"}
    assert str(run_dir.hydra_run().path) == "there"
    config.hydra.run.dir = ""
    with pytest.raises(UserError, match=r"^hydra\.run\.dir"):
        run_dir.hydra_run()


def a_run(path, key, steps=None, **metadata):
    """One in a folder, with a checkpoint after some steps."""
    run = Run(path)
    run.create(saved_config(str(path), str(path.parent / "outputs")), [], key=key)
    run.update_metadata(**metadata)
    if steps is not None:
        run.checkpoints.mkdir(exist_ok=True)
        (run.checkpoints / "last.ckpt").write_bytes(b"0")
    return run


@pytest.mark.parametrize("mode", [RunMode.RUN, RunMode.MULTIRUN])
@pytest.mark.parametrize(("steps", "finished"), [(None, False), (5, False), (5, True)])
def test_a_run_of_the_same_settings_is_found(tmp_path, monkeypatch, mode, steps, finished):
    """In a sweep, and where it is asked for; otherwise, and on the other processes, it is not looked for."""
    hydra(monkeypatch, mode)
    a_run(tmp_path / "other", "another key", steps)
    old, new = (
        a_run(tmp_path / "old", "key", steps, **({"results": {"steps": 5, "seconds": 1.0}} if finished else {})),
        Run(tmp_path / "new"),
    )
    new.path.mkdir()
    cfg = OmegaConf.create({"resume": None, "auto_resume": mode == RunMode.RUN, "sweep": {"retry": False}})
    assert find_run_dir(cfg, new, "key") == (str(old.path), steps is not None and not finished, finished)
    Run(tmp_path / "without a key").update_metadata(name="x")
    for other in ("a", "no key", "z"):
        assert find_run_dir(cfg, new, other) == (str(new.path), False, False)
    monkeypatch.setattr(run_dir, "is_main_process", lambda: False)
    assert find_run_dir(cfg, old, "key") == (str(old.path), False, False)
    cfg.resume = str(old.path)
    assert find_run_dir(cfg, old, "key")[1:] == (steps is not None, False)
    assert find_run_dir(cfg, new, "key") == (str(new.path), False, False)


def test_a_job_that_failed_is_left_out_unless_it_is_to_be_tried_again(tmp_path, monkeypatch):
    hydra(monkeypatch, RunMode.MULTIRUN)
    a_run(tmp_path / "0", "key", 5, failed="out of memory")
    cfg = OmegaConf.create({"resume": None, "auto_resume": False, "sweep": {"retry": False}})
    with pytest.raises(FailedBefore, match="out of memory"):
        find_run_dir(cfg, Run(tmp_path / "1"), "key")
    cfg.sweep.retry = True
    assert find_run_dir(cfg, Run(tmp_path / "1"), "key") == (str(tmp_path / "0"), True, False)


@pytest.mark.parametrize(
    ("files", "overrides", "sweeping", "message"),
    [
        ([], True, False, None),
        (["config.yaml"], True, False, r"already holds a run; resume it with python -m src\.train resume="),
        (["config.yaml"], True, True, "it holds checkpoints and 2 more"),
        (["notes"], True, False, None),  # of a run that was stopped before its config was written
        (["notes"], False, False, "it holds notes"),
        (["checkpoints/last.ckpt"], True, False, r"holds a run without its config\.yaml; take that from another run"),
    ],
)
def test_a_folder_in_which_no_run_may_begin(tmp_path, files, overrides, sweeping, message):
    run = Run(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    if overrides:
        run.update_metadata(overrides=[])
    else:
        run.checkpoints.rmdir()
    for name in files:
        (run.path / name).write_text("")
    with pytest.raises(UserError, match=message) if message else nullcontext():
        run_dir.check_unused(run, sweeping)


def test_a_damaged_record_does_not_hide_other_runs(tmp_path, caplog):
    (tmp_path / "run.json").write_text("{")
    with caplog.at_level("WARNING"):
        assert run_dir.metadata_or_empty(Run(tmp_path)) == {}
    assert run_dir.metadata_or_empty(Run(tmp_path / "none")) == {}


@pytest.mark.parametrize(
    ("trusted", "other_targets", "cluster", "mode", "words"),
    [
        (False, False, None, RunMode.RUN, ["--flag"]),
        (True, False, None, RunMode.RUN, ["trust=true", "--flag"]),
        (False, True, None, RunMode.RUN, ["trust=true", "--flag"]),
        (False, False, object(), RunMode.RUN, None),
        (False, False, None, RunMode.MULTIRUN, None),
    ],
)
def test_whether_other_processes_may_trust_the_run(tmp_path, monkeypatch, trusted, other_targets, cluster, mode, words):
    """As this one does, or if its own command line names all of the targets of the run that it would refuse."""
    hydra(monkeypatch, mode)
    run, own = a_run(tmp_path / "old", "key", 5), saved_config("a", "b", net={"_target_": "mine.Net"})
    monkeypatch.setattr(run_dir.sys, "argv", ["src.train", "--flag", "seed=1"])
    monkeypatch.setattr(run_dir, "is_trusted", lambda: trusted)
    monkeypatch.setattr(run_dir, "cluster_environment", lambda: cluster)
    found = {id(own): [("net", "mine.Net"), ("data", "mine.Data")]}
    monkeypatch.setattr(
        run_dir, "untrusted_targets", lambda cfg: found.get(id(cfg), [("net", "mine.Net")] * other_targets)
    )
    pin_run_dir(run, True, ["seed=1"], own)
    expected = ["--flag", "seed=1"] if words is None else [f"resume={run.path}", *words]
    assert run_dir.sys.argv == ["src.train", *expected]
    found[id(own)] = [("net", "another.Net")]
    if other_targets:
        run_dir.sys.argv[1:] = ["--flag", "seed=1"]
        pin_run_dir(run, True, ["seed=1"], own)
        assert "trust=true" not in run_dir.sys.argv, "it has targets that this command line does not name"


def test_other_processes_are_sent_to_the_run_that_resumes(tmp_path, monkeypatch):
    """By the command line that Lightning repeats, which keeps its flags; the settings are those of the run."""
    config, run = hydra(monkeypatch, RunMode.RUN), a_run(tmp_path / "old", "key", 5)
    words = ["src.train", "--config-dir=parts", "auto_resume=true", "seed=1"]
    monkeypatch.setattr(run_dir.sys, "argv", words.copy())
    plain = run.settings()
    pin_run_dir(run, False, words[2:], plain)
    assert run_dir.sys.argv == words and str(tmp_path / "old") in config.hydra.run.dir
    pin_run_dir(run, True, [*words[2:], "resume=x"], plain)
    assert run_dir.sys.argv == words
    pin_run_dir(run, True, words[2:], plain)
    assert run_dir.sys.argv == [words[0], f"resume={run.path}", words[1]]


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


@pytest.mark.parametrize(
    ("words", "unused"),
    [
        (["variance=fixed_large", "sampler=ddpm"], []),
        (["variance=fixed_large", "sampler=dpmpp_2m"], ["variance=fixed_large"]),
        (["variance=learned_range", "loss=hybrid", "sampler=dpmpp_2m"], []),  # the net learns it
        (["weighting=min_snr", "weighting.gamma=3", "loss=vlb"], ["weighting=min_snr", "weighting.gamma=3"]),
        (["weighting=min_snr", "loss=huber", "clip=none", "time_grid=karras"], []),
    ],
)
def test_choices_that_no_part_takes_are_found(words, unused):
    with composing():
        cfg = without_hydra(compose("train", ["experiment=sine_ddpm", *words], return_hydra_config=True))
    assert without_effect(cfg, ["experiment=sine_ddpm", *words]) == unused

"""Resources per job of a sweep, and messages for missing plugins."""

import pytest
from omegaconf import OmegaConf

from src.commands.sweep import plugins, resources
from src.utils.errors import UserError


@pytest.mark.parametrize(
    ("cores", "gib", "gpus", "words", "max_jobs", "jobs"),
    [
        (16, 64.0, 0, ["seed=range(20)"], None, 8),  # cores
        (16, 13.0, 0, ["seed=range(20)"], None, 3),  # memory
        (16, 64.0, 2, ["seed=range(20)"], None, 2),  # a GPU each
        (16, 64.0, 0, ["seed=1,2", "schedule=linear,cosine"], None, 4),  # as many as there are
        (16, 64.0, 0, ["optimizer.lr=interval(0,1)"], 5, 5),  # as many as a search asks for
        (1, 1.0, 0, ["seed=range(20)"], None, 1),  # never none
    ],
)
def test_jobs_share_a_machine_fairly(monkeypatch, cores, gib, gpus, words, max_jobs, jobs):
    monkeypatch.setattr("joblib.cpu_count", lambda: cores)
    monkeypatch.setattr(resources, "available_gib", lambda: gib)
    monkeypatch.setattr(resources, "visible_gpus", lambda: list(map(str, range(gpus))))
    assert resources.default_n_jobs(2, 4.0, words, {}, max_jobs) == jobs


def test_free_memory_is_measured():
    assert 0.1 < resources.available_gib() < 1e5


def test_processes_take_the_gpus_in_turn(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    job = [OmegaConf.create({"hydra": {"job": {"num": number}}}) for number in range(4)]
    given = []
    for number in (3, 0):  # of one process, which keeps the first
        resources.OneGPU().on_job_start(job[number])
        given.append(resources.os.environ["CUDA_VISIBLE_DEVICES"])
    assert given == ["5", "5"]
    monkeypatch.delenv(resources.GPU_VARIABLE)


@pytest.mark.parametrize(
    ("kind", "choice", "target", "message"),
    [
        ("launcher", "parallel", "hydra_joblib_launcher.joblib_launcher.JoblibLauncher", "joblib-launcher.*[joblib]"),
        ("sweeper", "search", "hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper", "optuna-sweeper.*[optuna]"),
    ],
)
def test_a_missing_engine_says_what_to_install(monkeypatch, kind, choice, target, message):
    monkeypatch.setattr(plugins, "is_installed", lambda package: False)
    nodes = {"launcher": {"_target_": "hydra._internal.x"}, "sweeper": {"_target_": "hydra._internal.y"}}
    nodes[kind]["_target_"] = f"hydra_plugins.{target}"
    config = OmegaConf.create({**nodes, "runtime": {"choices": {f"hydra/{kind}": choice}}})
    pattern = f"^hydra/{kind}={choice} needs hydra-" + message.replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(UserError, match=pattern):
        plugins.check_installed(config)
    monkeypatch.undo()
    plugins.check_installed(config)  # as it is here


def test_an_unknown_package_is_not_installed():
    assert not plugins.is_installed("hydra_plugins.hydra_nothing")
    assert not plugins.is_installed("nothing_plugins.hydra_nothing")

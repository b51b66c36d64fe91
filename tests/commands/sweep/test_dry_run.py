"""What a dry run says is what would be started."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from omegaconf import open_dict

from src.commands.sweep.callback import planned
from src.commands.sweep.dry_run import describe
from src.utils.paths import CONF


@pytest.fixture
def sweep(tmp_path):
    """`sweep(*words)`: the config of a sweep as Hydra's callbacks are given it, and its jobs."""
    before = Singleton.get_state()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):

        def make(*words: str):
            cfg = compose("train", [*words, f"hydra.sweep.dir={tmp_path}"], return_hydra_config=True)
            with open_dict(cfg):  # values of a sweep are several, which only a sweep may be told
                cfg.hydra.overrides.task = [*cfg.hydra.overrides.task, "schedule=linear,cosine"]
                cfg.hydra.job.config_name = "train"
            return cfg, planned(cfg).jobs

        yield make
    Singleton.set_state(before)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["timeout_min=90", "mem_gb=1.5", "partition=gpu", "account=lab", "setup=[module load cuda]", "gpus_per_node=4"],
        ["array_parallelism=1", "stderr_to_stdout=false", "cpus_per_task=null"],
    ],
    ids=len,
)
def test_the_file_is_the_one_that_sbatch_is_given(sweep, tmp_path, monkeypatch, words):
    """By an sbatch that keeps what it is given, and refuses it."""
    FailedJobError = pytest.importorskip("submitit.core.utils").FailedJobError
    config, jobs = sweep("hydra/launcher=slurm", *(f"hydra.launcher.{word}" for word in words))
    said = describe(config, jobs)
    for name, does in (("sbatch", f'cp "$1" {tmp_path}/given; exit 1'), ("srun", "exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    launcher = Plugins.instance()._instantiate(config.hydra.launcher)
    launcher.config = config
    with pytest.raises(FailedJobError):
        launcher.launch(jobs, initial_job_idx=0)
    assert said.endswith("\n\n" + (tmp_path / "given").read_text())


def test_the_jobs_and_what_starts_them(sweep):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    said = describe(*sweep("hydra/launcher=parallel", "hydra.launcher.n_jobs.memory_gib=0.01", "seed=3"))
    assert "with seed=3:\n  job 0: schedule=linear\n  job 1: schedule=cosine\n" in said
    assert "JoblibLauncher" in said and "n_jobs: " in said


def test_a_search_says_how_it_chooses(sweep):
    pytest.importorskip("optuna")
    said = describe(*sweep("sweep=optuna", "hydra.sweeper.n_trials=7"))
    assert "up to 7 trials" in said and "interval(5e-4, 8e-3)" in said and "TPESampler" in said

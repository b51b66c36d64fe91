"""The jobs and settings that a dry run prints."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from omegaconf import open_dict

from src.commands.sweep.callback import make_plan
from src.commands.sweep.dry_run import dry_run_text
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
            return cfg, make_plan(cfg).jobs

        yield make
    Singleton.set_state(before)


def test_the_settings_of_slurm(sweep):
    pytest.importorskip("submitit")
    words = ["timeout_min=90", "partition=gpu", "setup=[module load cuda]"]
    text = dry_run_text(*sweep("hydra/launcher=slurm", *(f"hydra.launcher.{word}" for word in words)))
    assert "SlurmLauncher" in text and "timeout_min: 90" in text and "partition: gpu" in text
    assert "- module load cuda" in text and "account" not in text


def test_the_jobs_and_what_starts_them(sweep):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    said = dry_run_text(*sweep("hydra/launcher=parallel", "hydra.launcher.n_jobs.memory_gib=0.01", "seed=3"))
    assert "all with seed=3:\n  job 0: schedule=linear\n  job 1: schedule=cosine\n" in said
    assert "JoblibLauncher" in said and "n_jobs: " in said


def test_a_search_says_how_it_chooses(sweep):
    pytest.importorskip("optuna")
    said = dry_run_text(*sweep("sweep=optuna", "hydra.sweeper.n_trials=7"))
    assert "up to 7 trials" in said and "interval(5e-4, 8e-3)" in said and "TPESampler" in said

"""A search is killed, goes on, and takes failed trials as such."""

import os
import signal
from pathlib import Path

import pytest
import pytorch_lightning as pl
import yaml

from tests.end_to_end.running import POINTS, forked
from tests.helpers.libraries import Library

optuna = Library("optuna")
pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")

SMALL = ["sweep=optuna", "debug=two_steps", "callbacks=default", "sweep.objective=best_val_loss"]
SMALL += [word for word in POINTS if not word.startswith("sampler.")]
SMALL += ["parameterization=v", "schedule=cosine"]
SMALL += ["hydra.sweeper.n_trials=3", "optimizer.lr=tag(log,interval(1e-3,1e-2))"]


class KillOnce(pl.Callback):
    """Ends the process as kill -9 does, at the second step of the first run that does not find the file `marker`."""

    def __init__(self, marker: str):
        self.marker = Path(marker)

    def on_train_batch_start(self, trainer: pl.Trainer, *_) -> None:
        if trainer.global_step == 1 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def trials(folder: Path) -> list:
    return optuna.load_study(study_name="mixture_ddpm", storage=f"sqlite:///{folder}/study.db").trials


def test_a_killed_search_goes_on_to_the_planned_number(tmp_path):
    """The trial that was running is asked for again, and the one that fails ends nothing."""
    sweep = tmp_path / "sweep"
    words = [*SMALL, f"hydra.sweep.dir={sweep}", "sampler.steps=choice(0,2)", "seed=1"]
    words += [
        "+callbacks.kill._target_=tests.end_to_end.test_optuna.KillOnce",
        f"+callbacks.kill.marker={tmp_path}/killed",
    ]
    assert forked(*words).returncode == -signal.SIGKILL
    before = trials(sweep)
    assert before[-1].state.name == "RUNNING"
    done = forked(*words)
    after = trials(sweep)
    assert len(after) == 3 and all(trial.state.is_finished() for trial in after), done.stderr
    assert after[len(before) - 1].params == before[-1].params and after[len(before) - 1].state.name == "COMPLETE"
    assert len({trial.params["optimizer.lr"] for trial in after}) == 3
    assert {trial.state.name for trial in after} == {"COMPLETE", "FAIL"}
    assert all((trial.state.name == "FAIL") == (trial.params["sampler.steps"] == 0) for trial in after)
    best = yaml.safe_load((sweep / "optimization_results.yaml").read_text())
    assert best["best_value"] == min(trial.value for trial in after if trial.value is not None)


@pytest.mark.slow
def test_several_objectives(tmp_path):
    """The Pareto front of loss and size; nothing is stopped early."""
    words = ["hydra.sweeper.direction=[minimize,minimize]", "sweep.objective=[best_val_loss,parameters]"]
    words += ["net.width=choice(8,16)", f"hydra.sweep.dir={tmp_path}"]
    done = forked(*(word for word in SMALL if not word.startswith(("net.", "sweep.objective"))), *words)
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())["solutions"]
    values = [tuple(trial.values) for trial in trials(tmp_path)]
    assert len(values) == 3 and {tuple(one["values"]) for one in found} == {
        v for v in values if not any(w != v and w[0] <= v[0] and w[1] <= v[1] for w in values)
    }
    assert not any(trial.intermediate_values for trial in trials(tmp_path))

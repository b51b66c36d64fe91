"""A trial that falls behind the others is stopped, and only that one."""

from types import SimpleNamespace

import pytest

from src.callbacks.optuna_pruning import OptunaPruning
from tests.helpers.libraries import Library
from tests.helpers.tiny import fit

optuna = Library("optuna")

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

WORDS = ["optimizer.lr=0.25", "schedule=cosine", "seed=3"]


def space() -> dict:
    schedules = optuna.distributions.CategoricalDistribution(["cosine", "linear"])
    return {"optimizer.lr": optuna.distributions.UniformDistribution(0, 1), "schedule": schedules}


@pytest.fixture
def search(tmp_path, monkeypatch):
    """`search(values)`: a storage with one finished trial that reported these, and with this run's and another's."""
    hydra = SimpleNamespace(overrides=SimpleNamespace(task=WORDS))
    monkeypatch.setattr("src.callbacks.optuna_pruning.HydraConfig.get", lambda: hydra)

    def make(values: list[float], directions: tuple[str, ...] = ("minimize",)) -> str:
        storage = f"sqlite:///{tmp_path}/study.db"
        study = optuna.create_study(storage=storage, study_name="search", directions=directions)
        study.add_trial(
            optuna.trial.create_trial(
                params={"optimizer.lr": 0.5, "schedule": "linear"},
                distributions=space(),
                intermediate_values=dict(enumerate(values, 1)),
                values=[values[-1]] * len(directions),
            )
        )
        for lr, schedule in ((0.25, "cosine"), (0.25, "linear")):
            study.enqueue_trial({"optimizer.lr": lr, "schedule": schedule})
            study.ask(space())
        return storage

    return make


def callback(storage: str | None, **pruner) -> OptunaPruning:
    pruner = {"n_startup_trials": 1} | pruner
    return OptunaPruning(storage, "search", "best_val_loss", optuna.pruners.MedianPruner(**pruner))


def trials(storage: str) -> list:
    return optuna.load_study(study_name="search", storage=storage).trials


@pytest.mark.parametrize(("others", "warmup", "ends"), [(1e-9, 0, 1), (1e-9, 3, 3), (1e9, 0, 6)])
def test_it_ends_where_the_others_were_better(search, tmp_path, others, warmup, ends):
    storage = search([others] * 6)
    stop = callback(storage, n_warmup_steps=warmup)
    _, trainer, watch = fit(tmp_path, callbacks=[stop], val_check_interval=1)
    assert trainer.global_step == ends
    losses = {step: pytest.approx(values["val/loss_ema"]) for step, values in watch.validations}
    assert [trial.intermediate_values for trial in trials(storage)[1:]] == [losses, {}]
    assert stop.results == ({"pruned_at_step": ends} if ends < 6 else {})


def test_several_objectives_and_no_study_stop_nothing(search, tmp_path):
    storage = search([1e-9] * 6, ("minimize", "minimize"))
    for stop in (callback(storage), callback(None), callback(f"sqlite:///{tmp_path}/other.db")):
        _, trainer, _ = fit(tmp_path, callbacks=[stop], val_check_interval=3)
        assert trainer.global_step == 6
    assert not trials(storage)[1].intermediate_values

"""Pruning of unpromising trials of an Optuna search."""

from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig

from src.utils.console import log
from src.utils.errors import UserError

# Names under which results of a run are logged during training.
LOGGED_AS = {"best_val_loss": "val/loss_ema"}


class OptunaPruning(pl.Callback):
    """Report each validation to Optuna, and stop the training of a trial that the pruner rejects.

    A pruned trial counts with its value so far. The trial of this run is the newest running one with the parameters of
    the command line. Without a storage, which other processes could read, and with several objectives nothing is
    pruned.

    Args:
        storage, study: storage URL and name of the study, equal to those of the sweeper.
        monitor: the result that the search optimizes: `best_val_loss`, or a result of another callback.
        pruner: a pruner of Optuna.

    Source: Akiba et al. 2019, arXiv:1907.10902, section 3.2.
    """

    def __init__(self, storage: str | None, study: str | None, monitor: str | list[str], pruner: Any):
        self.storage, self.study, self.monitor, self.pruner = storage, study, monitor, pruner
        self.trial: Any = None
        self.results: dict[str, Any] = {}
        self.report: list[tuple[str, str]] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the trial."""
        if trainer.is_global_zero and self.storage and isinstance(self.monitor, str):
            self.trial = running_trial(self.storage, self.study, self.pruner, HydraConfig.get().overrides.task)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        stop = self.trial is not None and self.should_prune(trainer)
        if trainer.strategy.reduce_boolean_decision(stop, all=False):
            trainer.should_stop = True

    def should_prune(self, trainer: pl.Trainer) -> bool:
        """Report the newest value, and return the decision of the pruner."""
        step, value = trainer.global_step, self.value(trainer)
        if value is None:  # not computed yet
            return False
        self.trial.report(value, step)
        if not self.trial.should_prune():
            return False
        self.results = {"pruned_at_step": step}
        self.report = [("pruned", f"at step {step:,}, with {self.monitor} {value:.4g}")]
        log.info(f"Trial {self.trial.number} pruned at step {step:,}, with {self.monitor} {value:.4g}")
        return True

    def value(self, trainer: pl.Trainer) -> float | None:
        """The current value of the monitored result, or None."""
        assert isinstance(self.monitor, str)
        found = {**trainer.callback_metrics}
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            found |= getattr(callback, "results", {})
        value = found.get(LOGGED_AS.get(self.monitor, self.monitor))
        return None if value is None else float(value)


def running_trial(storage: str, name: str | None, pruner: Any, overrides: list[str]) -> Any:
    """The running trial of a study whose parameters are among the overrides, or None.

    Raises:
        UserError: if Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("callbacks.optuna_pruning needs optuna: pip install 'diffusion-lab[optuna]'") from error
    try:
        study = optuna.load_study(name, storage, pruner=pruner)
    except KeyError:  # no such study, such as for a run that is started again outside its search
        return None
    if len(study.directions) > 1:
        return None
    overrides = list(overrides)
    for trial in reversed(study.get_trials(deepcopy=False)):
        running = trial.state == optuna.trial.TrialState.RUNNING
        if running and all(f"{key}={value}" in overrides for key, value in trial.params.items()):
            return optuna.Trial(study, trial._trial_id)
    return None

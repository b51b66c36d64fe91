"""Stop the trials of a search that fall behind the others."""

from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig

from src.utils.console import log
from src.utils.errors import UserError

# What the result of a run is called while it trains.
METRICS = {"best_val_loss": "val/loss_ema"}


class StopUnpromising(pl.Callback):
    """Report each validation to Optuna, and stop the training of a trial that the pruner rejects.

    The trial then counts with what it has reached. The trial of this run is the newest that is running with the
    parameters that the command line gives. A study with several objectives cannot be pruned, nor one without a storage,
    of which other processes know nothing: in these nothing is done.

    Args:
        storage, study: of the search, as the sweeper names them.
        monitor: the result that the search looks at: `best_val_loss`, or what another callback measures.
        pruner: one of Optuna's.

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
        stop = self.trial is not None and self.unpromising(trainer)
        if trainer.strategy.reduce_boolean_decision(stop, all=False):
            trainer.should_stop = True

    def unpromising(self, trainer: pl.Trainer) -> bool:
        """Report the newest value, and ask the pruner."""
        step, value = trainer.global_step, self.value(trainer)
        if value is None:  # not measured yet
            return False
        self.trial.report(value, step)
        if not self.trial.should_prune():
            return False
        self.results = {"stopped_as_unpromising": step}
        self.report = [("stopped", f"at step {step:,}, as unpromising: {self.monitor} is {value:.4g}")]
        log.info(f"Trial {self.trial.number} is unpromising at step {step:,}: {self.monitor} is {value:.4g}")
        return True

    def value(self, trainer: pl.Trainer) -> float | None:
        """What is monitored, as it is now."""
        assert isinstance(self.monitor, str)
        found = {**trainer.callback_metrics}
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            found |= getattr(callback, "results", {})
        value = found.get(METRICS.get(self.monitor, self.monitor))
        return None if value is None else float(value)


def running_trial(storage: str, name: str | None, pruner: Any, words: list[str]) -> Any:
    """The trial of a study that runs with the parameters among these words; None where there is none.

    Raises:
        UserError: where Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("callbacks.stop_unpromising needs optuna: pip install 'diffusion-lab[optuna]'") from error
    try:
        study = optuna.load_study(name, storage, pruner=pruner)
    except KeyError:  # the study is another's, such as that of a run that is started again by itself
        return None
    if len(study.directions) > 1:
        return None
    words = list(words)
    for trial in reversed(study.get_trials(deepcopy=False)):
        running = trial.state == optuna.trial.TrialState.RUNNING
        if running and all(f"{key}={value}" in words for key, value in trial.params.items()):
            return optuna.Trial(study, trial._trial_id)
    return None

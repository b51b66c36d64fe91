"""Checks and preparation of the sweeper and launcher plugins before the first job."""

import logging
import re
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig, open_dict

from src.utils.errors import UserError


def prepare(config: DictConfig) -> None:
    """Check that sweeper and launcher are installed, and resume the study of a search.

    Args:
        config: the config of the sweep, with its resolved folder.

    Raises:
        UserError: if a package or SLURM is missing.
    """
    hydra = config.hydra
    check_installed(hydra)
    if config.sweep.dry_run:
        return
    if hydra.launcher._target_.endswith("SlurmLauncher") and shutil.which("srun") is None:
        raise UserError(
            "hydra/launcher=slurm needs SLURM, but srun is not found; "
            "use hydra/launcher=parallel on this machine, or sweep.dry_run=true to see the jobs"
        )
    if "study_name" in hydra.sweeper:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)  # the sweep prints the status of its trials itself
        logging.getLogger("hydra_plugins.hydra_optuna_sweeper").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # multivariate
        if hydra.sweeper.storage:
            resume_study(hydra)


def check_installed(hydra: DictConfig) -> None:
    """Check that the packages of launcher and sweeper are installed.

    Raises:
        UserError: with the command that installs the missing one.
    """
    for kind in ("launcher", "sweeper"):
        plugin = re.match(r"hydra_plugins\.(hydra_(\w+?)_(launcher|sweeper))\.", hydra[kind]._target_)
        if plugin and not is_installed(f"hydra_plugins.{plugin.group(1)}"):
            choice = hydra.runtime.choices[f"hydra/{kind}"]
            raise UserError(
                f"hydra/{kind}={choice} needs {plugin.group(1).replace('_', '-')}: "
                f"pip install 'diffusion-lab[{plugin.group(2)}]'"
            )


def is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # its parent package is missing too
        return False


def resume_study(hydra: DictConfig) -> None:
    """Reduce `n_trials` by the trials that the study of a search already holds.

    A trial that was running when the search was killed is queued again with the same parameters if the study is in the
    sweep folder; in a study elsewhere it is left alone, since another search may be running it.
    """
    import optuna

    sweeper, folder = hydra.sweeper, Path(hydra.sweep.dir)
    if file := re.fullmatch(r"sqlite:///(.+)", sweeper.storage):
        Path(file.group(1)).parent.mkdir(parents=True, exist_ok=True)
    try:
        study = optuna.load_study(sweeper.study_name, sweeper.storage)
    except KeyError:
        return
    trials = study.get_trials(deepcopy=False)
    running = [trial for trial in trials if trial.state == optuna.trial.TrialState.RUNNING]
    if str(folder) in sweeper.storage:
        for trial in running:
            study._storage.set_trial_state(trial._trial_id, optuna.trial.TrialState.WAITING)
    ended = sum(trial.state.is_finished() for trial in trials)
    with open_dict(hydra):
        sweeper.n_trials = max(0, sweeper.n_trials - ended)
        if sweeper.sampler.get("seed") is not None:
            sweeper.sampler.seed += len(trials)  # the same seed would repeat the first trials

"""What is done for the sweeper and the launcher of a sweep before its first job."""

import logging
import re
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig, open_dict

from src.utils.errors import UserError


def prepare(config: DictConfig) -> None:
    """See that the engines of a sweep are there, and let a search go on with the study that it has.

    Args:
        config: of the whole sweep; its folder is settled.

    Raises:
        UserError: where a package is missing, or SLURM.
    """
    hydra = config.hydra
    check_installed(hydra)
    if config.sweep.dry_run:
        return
    if hydra.launcher._target_.endswith("SlurmLauncher") and shutil.which("srun") is None:
        raise UserError(
            "hydra/launcher=slurm: this machine has no SLURM, since there is no srun; "
            "sweep.dry_run=true shows what would be submitted, hydra/launcher=parallel runs the jobs here"
        )
    if "study_name" in hydra.sweeper:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)  # the sweep says itself how its trials go
        logging.getLogger("hydra_plugins.hydra_optuna_sweeper").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # multivariate
        if hydra.sweeper.storage:
            go_on(hydra)


def check_installed(hydra: DictConfig) -> None:
    """Refuse a launcher or sweeper whose package is not there.

    Raises:
        UserError: saying what to install.
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
    except ModuleNotFoundError:  # not even the package that it is in
        return False


def go_on(hydra: DictConfig) -> None:
    """Let a search go on with the trials that its study holds, until there are `n_trials`.

    A trial that was running when the search was killed is asked for again with the same parameters, if the study lies
    in the folder of the sweep; in a study elsewhere it is left as it is, since another search may be at it.
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
            sweeper.sampler.seed += len(trials)  # the same seed would draw the first trials again

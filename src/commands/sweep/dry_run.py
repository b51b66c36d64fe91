"""What a sweep would start, without starting it."""

import shlex
from collections.abc import Sequence
from textwrap import indent
from typing import Any

import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.commands.sweep.plugins import check_installed

# Settings that are for submitit, not for sbatch.
OF_SUBMITIT = ("_target_", "submitit_folder", "max_num_timeout")


def describe(config: DictConfig, jobs: Sequence[Sequence[str]]) -> str:
    """The jobs of a sweep and the settings of its engines; for SLURM the file that `sbatch` would be given.

    Args:
        config: of the whole sweep.
        jobs: the words of each; none where a search is to choose them.

    Raises:
        UserError: where an engine is not installed.
    """
    hydra = config.hydra
    check_installed(hydra)
    common = [word for word in (jobs or [hydra.overrides.task])[0] if all(word in words for words in jobs)]
    lines = [f"Nothing is started. What would run in {hydra.sweep.dir}, with {shlex.join(common)}:"]
    for number, words in enumerate(jobs):
        lines.append(f"  job {number}: {shlex.join(word for word in words if word not in common)}")
    at_once = len(jobs)
    if "study_name" in hydra.sweeper:
        lines.append(f"  up to {hydra.sweeper.n_trials} trials, as they are chosen by\n{settings(hydra.sweeper)}")
        at_once = hydra.sweeper.n_jobs
    lines.append(f"  started by\n{settings(hydra.launcher)}")
    if hydra.launcher._target_.endswith("SlurmLauncher"):
        lines.append(f"The file for sbatch:\n\n{sbatch_file(hydra.launcher, at_once)}")
    return "\n".join(lines)


def settings(node: DictConfig) -> str:
    """What an engine is told, as YAML."""
    plain: Any = OmegaConf.to_container(node, resolve=True)
    if isinstance(plain.get("n_jobs"), dict):
        plain["n_jobs"] = instantiate(node.n_jobs)
    told = {key: value for key, value in plain.items() if value is not None}
    return indent(yaml.safe_dump(told, sort_keys=False), "    ").rstrip()


def sbatch_file(launcher: DictConfig, jobs: int) -> str:
    """The text that submitit makes of the launcher's settings: an array where there are several jobs."""
    from submitit.slurm.slurm import SlurmExecutor

    class WithoutSLURM(SlurmExecutor):
        """Makes the same file where SLURM is not."""

        @classmethod
        def affinity(cls) -> int:
            return 2

    plain: Any = OmegaConf.to_container(launcher, resolve=True)
    executor = WithoutSLURM(plain["submitit_folder"])
    given = {key: value for key, value in plain.items() if key not in OF_SUBMITIT and value is not None}
    executor.update_parameters(**executor._convert_parameters(given))
    if jobs > 1:
        executor.parameters["map_count"] = jobs
    return executor._make_submission_file_text(executor._submitit_command_str, "")

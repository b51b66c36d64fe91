"""The text of sweep.dry_run=true: the jobs of a sweep, which are not started."""

import shlex
from collections.abc import Sequence
from textwrap import indent
from typing import Any

import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.commands.sweep.plugins import check_installed


def dry_run_text(config: DictConfig, jobs: Sequence[Sequence[str]]) -> str:
    """The jobs of a sweep, and the settings of its sweeper and launcher.

    Args:
        config: the config of the sweep.
        jobs: the overrides of each job; empty if a search chooses them.

    Raises:
        UserError: if the sweeper or launcher is not installed.
    """
    hydra = config.hydra
    check_installed(hydra)
    common = [text for text in (jobs or [hydra.overrides.task])[0] if all(text in overrides for overrides in jobs)]
    lines = [f"Dry run: nothing is started. Jobs in {hydra.sweep.dir}, all with {shlex.join(common)}:"]
    for number, overrides in enumerate(jobs):
        lines.append(f"  job {number}: {shlex.join(text for text in overrides if text not in common)}")
    if "study_name" in hydra.sweeper:
        lines.append(f"  up to {hydra.sweeper.n_trials} trials, chosen by\n{to_yaml(hydra.sweeper)}")
    lines.append(f"  started by\n{to_yaml(hydra.launcher)}")
    return "\n".join(lines)


def to_yaml(node: DictConfig) -> str:
    """The settings of a sweeper or launcher that are not null, as indented YAML."""
    plain: Any = OmegaConf.to_container(node, resolve=True)
    if isinstance(plain.get("n_jobs"), dict):
        plain["n_jobs"] = instantiate(node.n_jobs)
    set_values = {key: value for key, value in plain.items() if value is not None}
    return indent(yaml.safe_dump(set_values, sort_keys=False), "    ").rstrip()

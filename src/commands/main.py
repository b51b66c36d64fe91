"""Start a command with Hydra, as a single job or as the jobs of a sweep."""

import os
import sys
from collections.abc import Callable
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

import src.runs.folders  # noqa: F401 - registers the resolvers that conf/ uses
from src.commands.cli import user_errors
from src.commands.composition import share_compositions
from src.commands.overrides import check_run_dirs, normalize_override
from src.commands.yaml_limits import limit_yaml
from src.runs.own_code import same_code_after
from src.runs.trust import trust_configs
from src.utils.override_syntax import split_flags
from src.utils.paths import CONF, resolve_environment, resolve_strings


def run_command(
    task: Callable[[DictConfig], Any], config_name: str, rewrite: Callable[[list[str]], list[str]] = list
) -> None:
    """Run `task` with the config that Hydra composes from `conf/<config_name>.yaml` and the command line.

    Args:
        task: the command, a function of the composed config.
        config_name: the name of the file in conf/, without .yaml.
        rewrite: makes the overrides for Hydra from those on the command line.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises its errors instead of printing them
    limit_yaml()
    share_compositions()
    start = hydra.main(config_path=str(CONF), config_name=config_name, version_base="1.3")
    with user_errors(config_name):
        resolve_environment()
        typed, flags = split_flags(sys.argv[1:])
        overrides = [*map(normalize_override, rewrite([*map(normalize_override, typed)]))]
        check_run_dirs(overrides)
        sys.argv[1:] = [*overrides, *flags]  # Hydra refuses overrides on both sides of a flag
        start(wrap_task(task, config_name))()


def wrap_task(task: Callable[[DictConfig], Any], config_name: str) -> Callable[[DictConfig], Any]:
    """Wrap a task for Hydra: a job of a sweep writes its error to the sweep folder, others exit with one line."""

    def job(cfg: DictConfig) -> Any:
        with trust_configs(cfg.get("trust") is True), same_code_after():
            if HydraConfig.get().mode == RunMode.MULTIRUN and "sweep" in HydraConfig.get().callbacks:
                from src.commands.sweep.job import run_job  # imports torch, which --help does not need

                return run_job(task, cfg)
            with user_errors(config_name):  # here too: Hydra prints the command line of a job that raises
                resolve_strings(cfg)
                return task(cfg)

    return job

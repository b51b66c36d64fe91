"""How a command starts: alone, or as the jobs of a sweep."""

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
from src.commands.overrides import check_run_dirs, normalize_override
from src.commands.yaml_limits import limit_yaml
from src.runs.trust import trust_configs
from src.utils.override_syntax import split_flags
from src.utils.paths import CONF, settle_environment, settle_strings


def run_command(
    task: Callable[[DictConfig], Any], config_name: str, complete: Callable[[list[str]], list[str]] = list
) -> None:
    """Run `task` with the config that Hydra composes from `conf/<config_name>.yaml` and the command line.

    Args:
        task: takes the composed config.
        config_name: the file in conf/, without its ending.
        complete: makes the words that Hydra sees of those on the command line.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises its errors to us instead of printing them
    limit_yaml()
    start = hydra.main(config_path=str(CONF), config_name=config_name, version_base="1.3")
    with user_errors(config_name):
        settle_environment()
        words, flags = split_flags(sys.argv[1:])
        words = [normalize_override(word) for word in complete([normalize_override(word) for word in words])]
        check_run_dirs(words)
        sys.argv[1:] = [*words, *flags]  # Hydra refuses words behind a flag when others stand before it
        start(wrap_task(task, config_name))()


def wrap_task(task: Callable[[DictConfig], Any], config_name: str) -> Callable[[DictConfig], Any]:
    """The task as Hydra runs it: a job of a sweep leaves its errors in the folder of the sweep, any other ends here."""

    def job(cfg: DictConfig) -> Any:
        with trust_configs(cfg.get("trust") is True):
            if HydraConfig.get().mode == RunMode.MULTIRUN and "sweep" in HydraConfig.get().callbacks:
                from src.commands.sweep.job import run_job  # which imports what --help need not wait for

                return run_job(task, cfg)
            with user_errors(config_name):  # here too, since Hydra prints the command line of a job that raises
                settle_strings(cfg)
                return task(cfg)

    return job

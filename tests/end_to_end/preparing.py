"""Configs that Hydra composes once and tests change by a command line's words, so that a mistake costs milliseconds."""

from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from src.commands.cli import to_container, user_message
from src.commands.options import TrainOptions
from src.commands.run_setup import RunSetup
from src.commands.sampling import Sampling
from src.commands.trainer import build_trainer
from src.commands.training import Training, build_initial_module
from src.runs.check_config import check_config, check_options
from src.runs.run import Run
from src.utils.override_syntax import assignment, read
from src.utils.paths import CONF, resolve_strings
from tests.helpers.composing import hydra, without_hydra


@cache
def composed(command: str, *words: str) -> DictConfig:
    """The config of a command."""
    with hydra():
        cfg = compose(command, [*words], return_hydra_config=True)
    if command == "train":
        cfg.name, cfg.paths.run = cfg.hydra.runtime.choices.experiment, "run"
    return without_hydra(cfg)


def changed(cfg: DictConfig, *words: str) -> DictConfig:
    """A copy of a config with other choices of groups, values and removals."""
    cfg = deepcopy(cfg)
    with open_dict(cfg):
        for word in map(read, words):
            if word.removes:
                parent, _, key = word.key.rpartition(".")
                del OmegaConf.select(cfg, parent)[key]
            elif "." not in word.key and (CONF / word.key).is_dir():
                cfg[word.key] = OmegaConf.load(CONF / word.key / f"{word.value}.yaml")
            else:
                OmegaConf.update(cfg, word.key, word.value)
    resolve_strings(cfg)
    return cfg


def build(cfg: DictConfig) -> Any:
    """Check the config of a training run, and build its parts, as `src.train` does before it trains."""
    if cfg.trainer.precision == "auto":
        cfg.trainer.precision = "32-true"
    check_options(to_container(cfg), TrainOptions)
    check_config(to_container(cfg))
    instantiate(cfg.data)
    module = build_initial_module(cfg)
    build_trainer(cfg)
    return module


def prepare_training(cfg: DictConfig, folder: Path) -> Training:
    """Prepare to train in a folder, as `src.train` does before the first step."""
    cfg.paths.run, cfg.trainer.precision = str(folder), "32-true"
    check_config(to_container(cfg))
    return Training.prepare(RunSetup(cfg, to_container(cfg), Run(folder), False, False, [], "key"))


def prepare_sampling(run: Path, *words: str) -> Sampling:
    """Prepare to draw from a run, as `src.sample` does before it draws."""
    named = {"run", *(read(word).key for word in words)}
    return Sampling.prepare(changed(composed("sample"), assignment("run", run), *words), named)


@contextmanager
def mistake(command: str, *parts: str):
    """What is done inside ends with an error for users, whose one line holds all these parts."""
    with pytest.raises(Exception) as caught:
        yield
    message = user_message(caught.value, command)
    assert message is not None, str(caught.getrepr())
    for part in parts:
        assert part in " ".join(message.split()), message

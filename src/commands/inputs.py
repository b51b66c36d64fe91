"""Read the samples that `input=` and `truth=` name, and the data of a run."""

from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.data.base import DataModule
from src.runs.data_identity import data_changes
from src.runs.loading import kind_and_units
from src.runs.run import Run
from src.tasks.base import TaskInput
from src.utils.console import log
from src.utils.errors import UserError
from src.utils.sample_files import read_samples


def read_inputs(cfg: DictConfig, trained: DictConfig) -> TaskInput:
    """The samples that input= and truth= name.

    Args:
        cfg: the settings of the command; input=test names the first n samples of the run's own test data, which are
            the truth that the task degrades.
        trained: the config of the run.

    Raises:
        UserError: if they are missing, cannot be read, or are not equal in number.
    """
    if cfg.input is None or not paths(cfg.input):
        raise UserError("input=FILE is needed: an image, a folder of images, a .npy or .npz file; or input=test")
    if cfg.input == "test":
        if cfg.truth is not None:
            raise UserError("input=test takes its truth from the test data; leave truth= out")
        return TaskInput(truth=test_samples(trained, cfg.n))
    shape = (trained.data.channels, *trained.data.size)
    space = kind_and_units(Run(Path(trained.paths.run)), shape)
    x = torch.cat([read_samples(path, shape, "input", *space) for path in paths(cfg.input)])
    if cfg.truth is None:
        return TaskInput(x)
    truth = torch.cat([read_samples(path, shape, "truth", *space) for path in paths(cfg.truth)])
    if len(truth) != len(x):
        raise UserError(f"truth must hold as many samples as input, {len(x)}, got {len(truth)}")
    return TaskInput(x, truth)


def paths(value: Any) -> list[Path]:
    """The paths of a setting that is one path or a list."""
    return [Path(str(name)) for name in (value if OmegaConf.is_list(value) else [value])]


def load_data(node: DictConfig, run: Run | None = None) -> DataModule:
    """Load the data of a config, with a warning if they have changed since `run` was trained on them."""
    data: DataModule = instantiate(node)
    data.prepare_data()
    data.setup()
    changed = run and data_changes(run.metadata().get("data_identity"), data.identity())
    if changed:
        data.warn(changed)
    if data.warning:
        log.warning(f"WARNING: {data.warning}")
    return data


def test_samples(trained: DictConfig, n: int) -> torch.Tensor:
    """The first n samples (n, C, *S) of a run's test data."""
    data = load_data(trained.data, Run(trained.paths.run))
    if n > len(data.test_set):
        raise UserError(f"n must be <= {len(data.test_set)}, the test samples of this run, got {n}")
    return data.test_set[0, torch.arange(n)]["x"]

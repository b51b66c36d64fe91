"""What `input=`, `truth=` and so on of `src.sample` name."""

from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.data.base import DataModule
from src.runs.data_identity import data_changes
from src.runs.run import Run
from src.tasks.base import TaskInput
from src.utils.console import log
from src.utils.errors import UserError
from src.utils.sample_files import read_samples


def read_inputs(cfg: DictConfig, trained: DictConfig) -> TaskInput:
    """The samples that input= and truth= name.

    Args:
        cfg: the settings of the command. input=test takes the first n samples of the run's own test data, from which
            the task makes what it works on.
        trained: the config of the run.

    Raises:
        UserError: where they are missing, cannot be read, or are not as many.
    """
    if cfg.input is None or not paths(cfg.input):
        raise UserError("input=FILE is needed: a picture, a folder of them, a .npy or .npz file; or input=test")
    if cfg.input == "test":
        if cfg.truth is not None:
            raise UserError("input=test is made from test data, which is the truth; leave truth= out")
        return TaskInput(truth=test_samples(trained, cfg.n))
    shape = (trained.data.channels, *trained.data.size)
    x = torch.cat([read_samples(path, shape) for path in paths(cfg.input)])
    if cfg.truth is None:
        return TaskInput(x)
    truth = torch.cat([read_samples(path, shape, "truth") for path in paths(cfg.truth)])
    if len(truth) != len(x):
        raise UserError(f"truth holds {len(truth)} samples, but input {len(x)}; one for each is needed")
    return TaskInput(x, truth)


def paths(value: Any) -> list[Path]:
    """One path, or a list of them."""
    return [Path(str(name)) for name in (value if OmegaConf.is_list(value) else [value])]


def load_data(node: DictConfig, run: Run | None = None) -> DataModule:
    """The data of a config, set up; says where they are not those that the run was trained on."""
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
        raise UserError(f"n={n} is more than the {len(data.test_set)} test samples of this run")
    return data.test_set[0, torch.arange(n)]["x"]

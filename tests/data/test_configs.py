"""The YAML files of the data: each lists every argument of its class, and builds it."""

import inspect
from pathlib import Path

import pytest
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from src.data.base import DataModule
from src.utils.signatures import parameters

CONFIGS = sorted((Path(__file__).parents[2] / "conf/data").glob("*.yaml"))


def with_defaults(path):
    config = OmegaConf.load(path)
    parents = [with_defaults(path.with_stem(name)) for name in config.pop("defaults", [])]
    return OmegaConf.merge(*parents, config)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config(path):
    config = OmegaConf.create({"data": with_defaults(path), "seed": 3, "paths": {"data": "/nowhere"}})
    settings = parameters(get_class(config.data._target_))
    assert set(config.data) - {"_target_"} == set(settings)
    assert all(setting.annotation is not inspect.Parameter.empty for setting in settings.values())
    data = instantiate(config.data)
    assert isinstance(data, DataModule) and data.seed == 3
    if config.data.size is None:  # it is read from a file
        assert data.shape == (0,)
        return
    assert data.shape == (config.data.channels, *config.data.size) and data.num_classes == config.data.num_classes

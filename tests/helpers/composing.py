"""Hydra, ready to compose from conf/ in this process."""

from collections.abc import Iterator
from contextlib import contextmanager

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from omegaconf import DictConfig, OmegaConf

import src.runs.folders  # noqa: F401 - registers the resolvers that conf/ uses
from src.commands.composition import share_compositions
from src.utils.paths import CONF


@contextmanager
def hydra() -> Iterator[None]:
    """Compose from conf/, and leave no trace of it."""
    share_compositions()
    before = Singleton.get_state()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    finally:
        Singleton.set_state(before)


def without_hydra(cfg: DictConfig) -> DictConfig:
    """What a command sees of a composed config."""
    return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])

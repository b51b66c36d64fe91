"""What a command has of Hydra, for a Python program that calls it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from omegaconf import DictConfig, OmegaConf

import src.runs.folders  # noqa: F401 - registers the resolvers that conf/ uses
from src.commands.cli import user_message
from src.commands.composition import share_compositions
from src.commands.overrides import normalize_override, sampling_overrides, training_overrides
from src.commands.yaml_limits import limit_yaml
from src.utils.errors import UserError
from src.utils.override_syntax import assignment
from src.utils.paths import CONF, resolve_environment, resolve_strings

REWRITE = {
    "train": training_overrides,
    "sample": sampling_overrides,
    "evaluate": sampling_overrides,
    "export": sampling_overrides,
    "serve": sampling_overrides,
}


@contextmanager
def hydra_session(
    command: str, overrides: Sequence[str], conf: str | None = None, folder: str = "."
) -> Iterator[DictConfig]:
    """Compose the config of a command; within the block Hydra is what it is in a job of that command.

    Args:
        command: its name.
        overrides: those of its command line.
        conf: a folder of the user's own choices, as --config-dir names.
        folder: the folder of the job.

    Raises:
        UserError: for every mistake of the user's, here and within the block.
    """
    before = Singleton.get_state()
    try:
        limit_yaml()
        share_compositions()
        resolve_environment()
        GlobalHydra.instance().clear()
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            words = [*map(normalize_override, REWRITE[command]([*map(normalize_override, overrides)]))]
            words += [] if conf is None else [assignment("hydra.searchpath", [f"file://{conf}"])]
            words += [assignment("hydra.run.dir", folder)]
            cfg = hydra.compose(command, words, return_hydra_config=True)
            cfg.hydra.runtime.output_dir = folder
            HydraConfig.instance().set_config(cfg)
            yield cfg
    except Exception as error:
        message = user_message(error, command)
        if message is None or isinstance(error, UserError):
            raise
        raise UserError(message) from error
    finally:
        Singleton.set_state(before)


def without_hydra(cfg: DictConfig) -> DictConfig:
    """The config that a command gets, in which ~ is expanded."""
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    resolve_strings(own)
    return own

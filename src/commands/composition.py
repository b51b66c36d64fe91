"""Make Hydra compose the same config in a fraction of the time, from what it read and merged before in this process.

A command composes two or three times: for its mode, for its config, and for a part that the command line exchanges.
Each took 0.18 s of CPU time, mostly for reading the same files again and for merging them node by node.
"""

import copy
import pickle
from functools import lru_cache
from pathlib import Path
from typing import Any

import omegaconf._utils
import omegaconf.base
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository, IConfigRepository
from hydra.core.default_element import ConfigDefault, GroupDefault, InputDefault, ResultDefault
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf
from omegaconf.grammar_parser import parse

_load = ConfigRepository.load_config
_merge = ConfigLoaderImpl._compose_config_from_defaults_list
_copy_sources = CachingConfigRepository.__init__
_interpolation_map = defaults_list._create_interpolation_map
_parse_once = lru_cache(maxsize=4096)(parse)  # nobody changes the tree that it returns

# Pickled, since each composition changes its copy; unpickling takes a tenth of the time of a deep copy.
_loaded: dict[tuple[str | bytes, ...], bytes] = {}
_merged: dict[tuple[Any, ...], bytes] = {}
_NO_CHOICES = OmegaConf.create()


def share_compositions() -> None:
    """Keep what compositions read and merged for the next ones of this process."""
    replaced: list[tuple[Any, str, Any]] = [
        (ConfigRepository, "load_config", _load_once),
        (ConfigLoaderImpl, "_compose_config_from_defaults_list", _merge_once),
        (CachingConfigRepository, "__init__", _share_sources),
        (defaults_list, "_create_interpolation_map", _map_if_needed),
        (omegaconf.base, "parse", _parse_once),
        (omegaconf._utils, "parse", _parse_once),
    ]
    for owner, name, function in replaced:
        setattr(owner, name, function)


def _load_once(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
    """Load a config; from memory if it was loaded before from a file with the same content."""
    source = repository._find_object_source(config_path, ObjectType.CONFIG)
    if source is None or source.scheme() not in ("file", "pkg"):
        return _load(repository, config_path)
    key: tuple[str | bytes, ...] = (source.scheme(), source.provider, source.path, config_path)
    if source.scheme() == "file":  # those of packages do not change
        key += ((Path(source.path) / source._normalize_file_name(config_path)).read_bytes(),)
    if key not in _loaded:
        _loaded[key] = pickle.dumps(_load(repository, config_path))
    result: ConfigResult = pickle.loads(_loaded[key])
    vars(result)["pickled"] = _loaded[key]
    return result


def _merge_once(loader: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
    """Merge the configs of a defaults list; from memory if the same were merged before in the same order."""
    parts = []
    for default in defaults:
        result = repo.load_config(str(default.config_path))
        content = vars(result).get("pickled") or pickle.dumps(result)
        parts.append((default.config_path, default.package, default.primary, content))
    key = tuple(parts)
    if key not in _merged:
        cfg = _merge(loader, defaults, repo)
        OmegaConf.clear_cache(cfg)  # of what was resolved on the way and must be resolved anew each time, as ${now:}
        _merged[key] = pickle.dumps(cfg)
    merged: DictConfig = pickle.loads(_merged[key])
    return merged


def _share_sources(repository: CachingConfigRepository, delegate: ConfigRepository) -> None:
    """Use the sources of another repository, which Hydra copies with all structured configs that plugins registered.

    A shallow copy is enough: `initialize_sources` gives the copy a new list of sources.
    """
    repository.delegate = copy.copy(delegate)
    repository.cache = {}


def _map_if_needed(overrides: Any, defaults: list[InputDefault], self_added: bool) -> DictConfig:
    """The choices that a defaults list may refer to by ${}; made only if it does, since it takes 1 to 5 ms."""
    if any(isinstance(d, ConfigDefault | GroupDefault) and d.is_interpolation() for d in defaults):
        return _interpolation_map(overrides, defaults, self_added)
    return _NO_CHOICES

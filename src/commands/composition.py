"""Make Hydra compose the same config in a fraction of the time, from what it read and merged before in this process.

A command composes two or three times: for its mode, for its config, and for a part that the command line exchanges.
Each took 0.18 s of CPU time, mostly for reading the same files again and for merging them node by node.
"""

import copy
import pickle
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import omegaconf._utils
import omegaconf.base
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository, IConfigRepository
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import ConfigDefault, GroupDefault, InputDefault, ResultDefault
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf
from omegaconf.grammar_parser import parse

_load = ConfigRepository.load_config
_look_up = CachingConfigRepository.load_config
_embed = ConfigLoaderImpl._load_single_config
_merge = ConfigLoaderImpl._compose_config_from_defaults_list
_copy_sources = CachingConfigRepository.__init__
_interpolation_map = defaults_list._create_interpolation_map
_parse_once = lru_cache(maxsize=4096)(parse)  # nobody changes the tree that it returns

# The files as they were read, which nobody changes; a number stands for each.
_loaded: dict[tuple[Any, ...], Any] = {}
# Pickled, since each composition changes its copy; unpickling takes a tenth of the time of a deep copy.
_embedded: dict[tuple[Any, ...], bytes] = {}
_merged: dict[tuple[Any, ...], bytes] = {}
_NO_CHOICES = OmegaConf.create()


class _Same:
    """An object that equals itself alone, whatever it says of equality."""

    def __init__(self, of: object):
        self.of = of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.of is other.of

    def __hash__(self) -> int:
        return id(self.of)


def share_compositions() -> None:
    """Keep what compositions read and merged for the next ones of this process."""
    replaced: list[tuple[Any, str, Any]] = [
        (CachingConfigRepository, "load_config", _look_up_once),
        (ConfigLoaderImpl, "_load_single_config", _embed_once),
        (ConfigLoaderImpl, "_compose_config_from_defaults_list", _merge_once),
        (CachingConfigRepository, "__init__", _share_sources),
        (defaults_list, "_create_interpolation_map", _map_if_needed),
        (omegaconf.base, "parse", _parse_once),
        (omegaconf._utils, "parse", _parse_once),
    ]
    for owner, name, function in replaced:
        setattr(owner, name, function)


def _look_up_once(repository: CachingConfigRepository, config_path: str) -> ConfigResult | None:
    """Load a config to look at; from memory if it was loaded before from the same content."""
    key = f"config_path={config_path}"
    if key not in repository.cache:
        repository.cache[key] = _load_once(repository.delegate, config_path)
    return repository.cache[key]


def _load_once(repository: IConfigRepository, config_path: str) -> ConfigResult | None:
    assert isinstance(repository, ConfigRepository)
    source = repository._find_object_source(config_path, ObjectType.CONFIG)
    if source is None or source.scheme() not in ("file", "pkg", "structured"):
        return _load(repository, config_path)
    name = source._normalize_file_name(config_path)
    content: Any = None  # files of packages do not change
    if source.scheme() == "file":
        content = (Path(source.path) / name).read_bytes()
    elif source.scheme() == "structured":
        content = _Same(ConfigStore.instance()._load(name))
    key = (source.scheme(), source.provider, source.path, config_path, content)
    if key not in _loaded:
        _loaded[key] = _load(repository, config_path)
        vars(_loaded[key])["number"] = len(_loaded)
    result: ConfigResult = _loaded[key]
    return result


def _embed_once(loader: ConfigLoaderImpl, default: ResultDefault, repo: IConfigRepository) -> ConfigResult:
    """Load a config to change, in its package; from memory if it was put there before."""
    result = repo.load_config(str(default.config_path))
    if "number" not in vars(result):
        return _embed(loader, default, repo)
    key = (vars(result)["number"], default.package, default.primary)
    if key not in _embedded:
        own: Any = SimpleNamespace(
            load_config=lambda config_path: copy.deepcopy(result), get_schema_source=repo.get_schema_source
        )
        _embedded[key] = pickle.dumps(_embed(loader, default, own))
    embedded: ConfigResult = pickle.loads(_embedded[key])
    return embedded


def _merge_once(loader: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
    """Merge the configs of a defaults list; from memory if the same were merged before in the same order."""
    parts = []
    for default in defaults:
        result = repo.load_config(str(default.config_path))
        content = vars(result).get("number") or pickle.dumps(result)
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

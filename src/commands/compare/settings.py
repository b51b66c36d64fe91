"""Differences between the configs of runs, named as on the command line."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from src.runs.check_config import key_depth
from src.utils.paths import CONF

# Settings without influence on the result; the seed has a column of its own.
NOT_COMPARED = ("paths", "seed", "resume", "logger", "callbacks.sample_images", "callbacks.progress")
FREE_GROUPS = ("", "trainer", "callbacks", "module")  # nodes that are compared key by key
MISSING = "–"


@dataclass(frozen=True)
class Setting:
    """A key of the config and its value in each run, as text."""

    key: str
    values: tuple[str, ...]


Typed = Sequence[dict[str, str]]  # the command-line overrides of each run, by key


def differences(configs: Sequence[dict[str, Any]], typed: Typed) -> tuple[list[Setting], list[Setting]]:
    """Find the settings in which runs differ: those that identify the runs, and those that are implied by them.

    Command-line overrides come first. Another setting is implied if it is equal in all runs that agree in the settings
    already shown, like all parts of an experiment by its name.

    Args:
        configs: resolved configs as plain containers.
        typed: the overrides of each run.
    """
    found: dict[tuple[str, tuple[str, ...]], Setting] = {}
    for setting in sorted(
        walk("", configs, configs, typed), key=lambda s: (not is_override(s.key, typed), key_depth(s.key))
    ):
        # net.in_channels repeats data.channels: only the first of such settings is shown.
        found.setdefault((setting.key.rpartition(".")[2], setting.values), setting)
    settings = list(found.values())
    shown = [s for s in settings if is_override(s.key, typed)]
    following: list[Setting] = []
    for setting in settings:
        if setting not in shown:
            (following if is_implied(setting, shown) else shown).append(setting)
    return shown, following


def walk(path: str, nodes: Sequence[Any], configs: Sequence[dict[str, Any]], typed: Typed) -> Iterator[Setting]:
    """Iterate over the differing settings at and below a path, with a single one for a part that was swapped.

    Args:
        nodes: the node of each run at the path.
    """
    if path in NOT_COMPARED or all(node == nodes[0] for node in nodes) or is_copy(path, nodes, configs):
        return
    dicts = [node for node in nodes if isinstance(node, dict)]
    if len(dicts) < len(nodes) or is_swapped(path, nodes, typed):
        values = tuple(texts(path, nodes, typed))
        if len(set(values)) > 1:  # null and guidance=none are the same
            yield Setting("experiment" if path == "name" else path, values)
        return
    for key in dict.fromkeys(key for node in dicts for key in node):
        below = [node.get(key, MISSING) for node in nodes]
        yield from walk(f"{path}.{key}" if path else key, below, configs, typed)


def is_copy(path: str, nodes: Sequence[Any], configs: Sequence[dict[str, Any]]) -> bool:
    """Return True if the nodes repeat the top-level node of the same name, like loss.weighting."""
    parent, _, name = path.rpartition(".")
    pairs = [(node, config.get(name, MISSING)) for node, config in zip(nodes, configs, strict=True)]
    return bool(parent) and all(node == top for node, top in pairs if node != MISSING)


def is_swapped(path: str, nodes: Sequence[dict[str, Any]], typed: Typed) -> bool:
    """Return True if the nodes are different parts instead of one part with different settings."""
    return path not in FREE_GROUPS and len(set(part_names(path, nodes, typed))) > 1


def part_names(path: str, nodes: Sequence[Any], typed: Typed) -> list[str]:
    """The name of each part: its override, the YAML file in conf/ with the most similar content, or its class."""
    return [
        MISSING if not isinstance(node, dict) else words.get(path) or closest_option(path, node)
        for node, words in zip(nodes, typed, strict=True)
    ]


def closest_option(group: str, node: dict[str, Any]) -> str:
    """The option of a group with the class of a part and the most settings in common."""
    target = node.get("_target_")
    in_common = {
        name: sum(node.get(key) == value for key, value in option.items())
        for name, option in group_options(group).items()
        if option.get("_target_") == target
    }
    return max(in_common, key=in_common.__getitem__) if in_common else str(target or "").rpartition(".")[2]


@cache
def group_options(group: str) -> dict[str, dict[str, Any]]:
    """The options of a group in conf/, by name."""
    files = sorted((CONF / group).glob("*.yaml")) if group and "." not in group else []
    return {file.stem: OmegaConf.to_container(OmegaConf.load(file)) for file in files}  # type: ignore[misc]


def texts(path: str, nodes: Sequence[Any], typed: Typed) -> Iterator[str]:
    """Format each node: plain values, and parts by name with the settings that differ from their YAML file.

    Settings shared by all are omitted.
    """
    dicts = [node for node in nodes if isinstance(node, dict)]
    shared = {key for key in dicts[0] if all(n.get(key) == dicts[0][key] for n in dicts)} if len(dicts) > 1 else set()
    for node, name in zip(nodes, part_names(path, nodes, typed), strict=True):
        if not isinstance(node, dict):
            yield text(node)
            continue
        usual = group_options(path).get(name, {})
        own = [
            k for k, v in node.items() if k[0] != "_" and k not in shared and not is_default(v, usual.get(k, MISSING))
        ]
        yield f"{name}({', '.join(f'{k}={text(node[k])}' for k in own)})" if own else name


def is_default(value: Any, usual: Any) -> bool:
    """Return True for the value of the YAML file, an interpolation, or a nested part."""
    return value == usual or isinstance(value, dict) or (isinstance(usual, str) and usual.startswith("${"))


def text(value: Any) -> str:
    """Format a value as on the command line."""
    if isinstance(value, float):
        return short if float(short := f"{value:g}") == value else repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(text, value))}]"
    if isinstance(value, dict):
        return "{…}"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def is_override(key: str, typed: Typed) -> bool:
    """Return True if the key or one below it was set on the command line."""
    return any(word == key or word.startswith(f"{key}.") for words in typed for word in words)


def is_implied(setting: Setting, shown: Sequence[Setting]) -> bool:
    """Return True if runs that agree in all shown settings also agree in this one."""
    values: dict[tuple[str, ...], str] = {}
    cells = zip(*(s.values for s in shown), strict=True) if shown else [()] * len(setting.values)
    return all(values.setdefault(cell, value) == value for cell, value in zip(cells, setting.values, strict=True))

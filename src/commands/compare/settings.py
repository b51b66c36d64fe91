"""What differs between the configs of runs, in the words of those who started them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from src.runs.check_config import key_depth
from src.utils.paths import CONF

# Where a run is and what it tells of itself; the seed has a column of its own.
NOT_COMPARED = ("paths", "seed", "resume", "logger", "callbacks.sample_images", "callbacks.progress")
BAGS = ("", "trainer", "callbacks", "module")  # of settings, each of which stands for itself
MISSING = "–"


@dataclass(frozen=True)
class Setting:
    """A key of the config, and what every run has there, as text."""

    key: str
    values: tuple[str, ...]


Typed = Sequence[dict[str, str]]  # for each run, what was typed to start it, by key


def differences(configs: Sequence[dict[str, Any]], typed: Typed) -> tuple[list[Setting], list[Setting]]:
    """The settings in which runs differ: those that tell them apart, and those that follow from these.

    What was typed comes first, as it was chosen. Of the rest one is shown only where it says something new: a setting
    that is the same wherever all shown ones are the same follows from them, as all parts of an experiment do from its
    name.

    Args:
        configs: resolved, as plain containers.
        typed: the overrides of each.
    """
    found: dict[tuple[str, tuple[str, ...]], Setting] = {}
    for setting in sorted(
        walk("", configs, configs, typed), key=lambda s: (not was_typed(s.key, typed), key_depth(s.key))
    ):
        # net.channels is data.channels: of those that only repeat each other the first stands for all.
        found.setdefault((setting.key.rpartition(".")[2], setting.values), setting)
    settings = list(found.values())
    shown = [s for s in settings if was_typed(s.key, typed)]
    following: list[Setting] = []
    for setting in settings:
        if setting not in shown:
            (following if follows(setting, shown) else shown).append(setting)
    return shown, following


def walk(path: str, nodes: Sequence[Any], configs: Sequence[dict[str, Any]], typed: Typed) -> Iterator[Setting]:
    """The settings at and below a path, one for a part that was exchanged as a whole.

    Args:
        nodes: what each run has there.
    """
    if path in NOT_COMPARED or all(node == nodes[0] for node in nodes) or is_copy(path, nodes, configs):
        return
    dicts = [node for node in nodes if isinstance(node, dict)]
    if len(dicts) < len(nodes) or exchanged(path, nodes, typed):
        values = tuple(texts(path, nodes, typed))
        if len(set(values)) > 1:  # a guidance that is none, and one that does nothing, are the same
            yield Setting("experiment" if path == "name" else path, values)
        return
    for key in dict.fromkeys(key for node in dicts for key in node):
        below = [node.get(key, MISSING) for node in nodes]
        yield from walk(f"{path}.{key}" if path else key, below, configs, typed)


def is_copy(path: str, nodes: Sequence[Any], configs: Sequence[dict[str, Any]]) -> bool:
    """Whether this only repeats, wherever it is, what stands under the same name at the top, as loss.weighting does."""
    parent, _, name = path.rpartition(".")
    pairs = [(node, config.get(name, MISSING)) for node, config in zip(nodes, configs, strict=True)]
    return bool(parent) and all(node == top for node, top in pairs if node != MISSING)


def exchanged(path: str, nodes: Sequence[dict[str, Any]], typed: Typed) -> bool:
    """Whether these are different parts, rather than one with different settings."""
    return path not in BAGS and len(set(choices(path, nodes, typed))) > 1


def choices(path: str, nodes: Sequence[Any], typed: Typed) -> list[str]:
    """The name of each part: as it was typed, as that of the YAML in conf/ that it is most like, or of its class."""
    return [
        MISSING if not isinstance(node, dict) else words.get(path) or choice(path, node)
        for node, words in zip(nodes, typed, strict=True)
    ]


def choice(group: str, node: dict[str, Any]) -> str:
    """The YAML of a group that a part is made by: of those with its class the one with the most settings in common."""
    there = {name: sum(node.get(key) == value for key, value in option.items())
             for name, option in options(group).items() if option.get("_target_") == node.get("_target_")}  # fmt: skip
    return max(there, key=there.__getitem__) if there else str(node.get("_target_", "")).rpartition(".")[2]


@cache
def options(group: str) -> dict[str, dict[str, Any]]:
    """The parts that conf/ has for a group, by name."""
    files = sorted((CONF / group).glob("*.yaml")) if group and "." not in group else []
    return {file.stem: OmegaConf.to_container(OmegaConf.load(file)) for file in files}  # type: ignore[misc]


def texts(path: str, nodes: Sequence[Any], typed: Typed) -> Iterator[str]:
    """What to show of each: plain values as they are, parts by their name and what is not as their YAML has it.

    What all of them share is left out.
    """
    dicts = [node for node in nodes if isinstance(node, dict)]
    shared = {key for key in dicts[0] if all(n.get(key) == dicts[0][key] for n in dicts)} if len(dicts) > 1 else set()
    for node, name in zip(nodes, choices(path, nodes, typed), strict=True):
        if not isinstance(node, dict):
            yield text(node)
            continue
        usual = options(path).get(name, {})
        own = [k for k, v in node.items() if k[0] != "_" and k not in shared and not is_usual(v, usual.get(k, MISSING))]
        yield f"{name}({', '.join(f'{k}={text(node[k])}' for k in own)})" if own else name


def is_usual(value: Any, usual: Any) -> bool:
    """Whether a setting is what the YAML says, or what that takes from elsewhere; parts within parts are not told."""
    return value == usual or isinstance(value, dict) or (isinstance(usual, str) and usual.startswith("${"))


def text(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, float):
        return short if float(short := f"{value:g}") == value else repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(text, value))}]"
    if isinstance(value, dict):
        return "{…}"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def was_typed(key: str, typed: Typed) -> bool:
    """Whether somebody chose this, or something below it."""
    return any(word == key or word.startswith(f"{key}.") for words in typed for word in words)


def follows(setting: Setting, shown: Sequence[Setting]) -> bool:
    """Whether runs that agree in all that is shown agree in this too."""
    values: dict[tuple[str, ...], str] = {}
    cells = zip(*(s.values for s in shown), strict=True) if shown else [()] * len(setting.values)
    return all(values.setdefault(cell, value) == value for cell, value in zip(cells, setting.values, strict=True))

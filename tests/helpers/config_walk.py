"""Every setting of every config with values that are mistakes more often than not, each combination once."""

import copy
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from hydra import compose

from src.commands.cli import to_container
from src.commands.config import drop_incompatible_keys
from src.commands.options import CompareOptions, ExportOptions, SampleOptions, TrainOptions
from src.runs.check_config import check_config, check_options
from src.utils.errors import UserError

VALUES = (-1, 0, 1e30, math.nan, math.inf, "abc", None)
OPTIONS = {
    "train": TrainOptions, "sample": SampleOptions, "evaluate": SampleOptions, "compare": CompareOptions,
    "export": ExportOptions,
}  # fmt: skip


class Trial(NamedTuple):
    """A config with one value replaced.

    Attributes:
        command: whose config it is.
        words: of its command line, without the value.
        path: of the setting.
        value: in its place.
        was: what stood there.
        cfg: the config, as plain containers, or the part of it that is to be checked again.
    """

    command: str
    words: tuple[str, ...]
    path: str
    value: Any
    was: Any
    cfg: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.command} {' '.join(self.words)} {self.path}={self.value}"

    def refusal(self) -> str | None:
        """What the check of the config says; None where it passes."""
        try:
            check_options(self.cfg, OPTIONS[self.command])
            check_config(self.cfg)
        except UserError as error:
            return str(error)
        return None


def plain_config(command: str, words: tuple[str, ...]) -> dict[str, Any]:
    """What the command checks, resolved."""
    cfg = compose(command, list(words))
    if command == "train":
        drop_incompatible_keys(cfg, list(words))
        cfg.trainer.precision = "32-true"
    return to_container(cfg)


def leaves(node: Any, path: tuple[Any, ...] = (), part: str = "") -> Iterator[tuple[tuple[Any, ...], str]]:
    """The place of every value, and the part that it stands in: its target and the name of the setting there."""
    if isinstance(node, dict):
        inside = node.get("_target_", part)
        for key, value in node.items():
            if not str(key).startswith("_"):
                yield from leaves(value, (*path, key), f"{inside}.{key}" if "_target_" in node else f"{part}.{key}")
    elif isinstance(node, list) and node:
        yield path, part
        yield from leaves(node[0], (*path, 0), f"{part}[0]")
    else:
        yield path, part


def replaced(cfg: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    cfg = copy.deepcopy(cfg)
    node: Any = cfg
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return cfg


def checked(cfg: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    """What of a config has to be checked again when this value of it has changed."""
    top = cfg[path[0]]
    return cfg if len(path) == 1 or "_target_" not in str(top) else {path[0]: top}


def trials(configs: list[tuple[str, tuple[str, ...]]]) -> Iterator[Trial]:
    """Every setting of these configs with every value; a setting of a part that one of them has tried is left out."""
    seen = set()
    for command, words in configs:
        cfg = plain_config(command, words)
        # A part is first seen under its own name, optimizer, not where it is passed on, module.optimizer.
        for path, part in sorted(leaves(cfg), key=lambda leaf: len(leaf[0])):
            key = (command if part.startswith(".") else "", part)
            if key not in seen:
                seen.add(key)
                was = value_at(cfg, path)
                for value in VALUES:
                    new = replaced(cfg, path, value)
                    yield Trial(command, words, ".".join(map(str, path)), value, was, checked(new, path))


def value_at(cfg: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        cfg = cfg[key]
    return cfg

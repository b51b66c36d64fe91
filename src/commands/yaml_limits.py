"""YAML whose aliases stand for aliases of aliases, and so for more values than any memory holds."""

import math

import yaml

from src.utils.errors import UserError

VALUES = 20_000  # that any file may stand for; configs have some hundreds
TIMES = 10  # a longer one may stand for so many times the values that are written in it

_compose = yaml.SafeLoader.get_single_node


def limit_yaml() -> None:
    """Have all that read YAML, Hydra and OmegaConf too, refuse a file that stands for far more than it holds.

    Raises:
        UserError: when such a file is read; it names the file.
    """
    yaml.SafeLoader.get_single_node = _compose_limited  # type: ignore[method-assign]


def _compose_limited(loader: yaml.SafeLoader) -> yaml.Node | None:
    sizes: dict[int, float] = {}
    try:
        node = _compose(loader)
        size = 0 if node is None else _size(node, sizes)
    except RecursionError as error:
        raise UserError(f"{loader.name} is nested too deeply for a config; write it anew") from error
    if size > max(VALUES, TIMES * len(sizes)):
        raise UserError(
            f"{loader.name} stands for more than {max(VALUES, TIMES * len(sizes)):,} values by aliases (*name) of "
            "aliases; write it without them"
        )
    return node


def _size(node: yaml.Node, sizes: dict[int, float]) -> float:
    """Values that a node stands for, infinitely many if it is inside itself; sizes has those of the nodes seen."""
    if id(node) not in sizes:
        sizes[id(node)] = math.inf
        inside = () if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            inside = (part for pair in inside for part in pair)
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in inside)
    return sizes[id(node)]

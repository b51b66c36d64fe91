"""Limit the size of YAML files whose nested aliases expand to more values than memory holds."""

import math

import yaml

from src.utils.errors import UserError

VALUES = 20_000  # values that any file may expand to; configs have some hundreds
TIMES = 10  # a longer file may expand to so many times its written values

_compose = yaml.SafeLoader.get_single_node


def limit_yaml() -> None:
    """Make every YAML reader, also of Hydra and OmegaConf, refuse files that expand to far more than they hold.

    Reading such a file then raises a UserError that names it.
    """
    yaml.SafeLoader.get_single_node = _compose_limited  # type: ignore[method-assign]


def _compose_limited(loader: yaml.SafeLoader) -> yaml.Node | None:
    sizes: dict[int, float] = {}
    try:
        node = _compose(loader)
        size = 0 if node is None else _size(node, sizes)
    except RecursionError as error:
        raise UserError(f"{loader.name} is nested too deeply for a config; write it again") from error
    if size > max(VALUES, TIMES * len(sizes)):
        raise UserError(
            f"{loader.name} expands to more than {max(VALUES, TIMES * len(sizes)):,} values by aliases (*name) of "
            "aliases; write it without them"
        )
    return node


def _size(node: yaml.Node, sizes: dict[int, float]) -> float:
    """The number of values that a node expands to, infinite if it contains itself; `sizes` caches the results."""
    if id(node) not in sizes:
        sizes[id(node)] = math.inf
        inside = () if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            inside = (part for pair in inside for part in pair)
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in inside)
    return sizes[id(node)]

"""Check a config against the signatures of its targets, before any work starts."""

import logging
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from hydra.utils import get_object

from src.runs.bounds import violation
from src.runs.library_bounds import library_hints
from src.utils.errors import UserError
from src.utils.signatures import annotations, parameters
from src.utils.targets import instantiable_nodes


def check_config(cfg: dict[str, Any]) -> None:
    """Refuse a config with a missing value, a `_target_` that cannot be imported, or a wrong argument.

    Arguments are checked against the signature of the target: their names, types and ranges.

    Args:
        cfg: the resolved config, as plain containers.

    Raises:
        UserError: naming the YAML path, and the nearest valid name.
    """
    # A part is named by its own key, loss, before the nodes that it is passed to, module.loss.
    for path in sorted(missing_values(cfg), key=key_depth):
        raise UserError(f"{path}=VALUE must be given, since it has no default")
    for path, node in sorted(instantiable_nodes(cfg), key=lambda found: key_depth(found[0])):
        check_node(path, node)


def check_options(cfg: dict[str, Any], options: type, path: str = "") -> None:
    """Check the values of a config outside its parts against the annotations of a class of options.

    Raises:
        UserError: naming the first that is wrong.
    """
    for key, hint in typing.get_type_hints(options, include_extras=True).items():
        if key not in cfg:
            continue
        if typing.is_typeddict(hint) and isinstance(cfg[key], dict):
            check_options(cfg[key], hint, f"{path}{key}.")
        elif wrong := violation(cfg[key], hint):
            raise UserError(f"{path}{key}{wrong}")


def key_depth(path: str) -> int:
    """The number of parents of a dotted key."""
    return path.count(".")


def missing_values(node: Any, path: str = "") -> Iterator[str]:
    """The paths of all values that the user must set, ???."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from missing_values(value, f"{path}.{key}" if path else str(key))
    elif node == "???":
        yield path


def check_node(path: str, node: dict[str, Any]) -> None:
    """Check a node against the signature of its target."""
    name = node["_target_"]
    try:
        with muted("hydra.utils"):  # it also logs what it raises
            target = get_object(name)
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise UserError(f"{path}._target_: {name} cannot be imported ({reason})") from error
    takes = parameters(target)
    open_ended = any(p.kind == p.VAR_KEYWORD for p in takes.values())
    hints = annotations(target) | library_hints(target)
    for key, value in node.items():
        if key.startswith("_"):
            continue
        if key not in takes:
            if open_ended:
                continue
            near = get_close_matches(key, takes, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"It takes: {', '.join(takes)}"
            raise UserError(f"{path}.{key}: {name} has no such argument. {hint}")
        if key in hints and (wrong := violation(value, hints[key])):
            raise UserError(f"{path}.{key}{wrong}")
    missing = [k for k, p in takes.items() if p.default is p.empty and p.kind in (0, 1, 3) and k not in node]
    if missing and not node.get("_partial_"):
        raise UserError(f"{path}: {name} also needs {', '.join(missing)}")


@contextmanager
def muted(logger: str) -> Iterator[None]:
    """Mute a logger."""
    log = logging.getLogger(logger)
    was, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = was

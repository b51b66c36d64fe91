"""Parts of a config in words."""

from collections.abc import Mapping
from typing import Any


def describe(node: Any) -> str:
    """`Name(argument=value, ...)` of a part, without what the code adds; of anything else its text."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        return "none" if node is None else str(node)
    arguments = ", ".join(f"{key}={describe(value)}" for key, value in node.items() if key[0] != "_")
    name = node["_target_"].split(".")[-1]
    return f"{name}({arguments})" if arguments else name

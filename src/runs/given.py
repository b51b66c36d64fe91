"""Parts that a Python program gives as objects, in place of the targets of a config."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from src.utils.errors import UserError
from src.utils.targets import GIVEN

_objects: ContextVar[dict[str, Any] | None] = ContextVar("objects", default=None)


def given(part: str, type: str, **settings: Any) -> Any:
    """The object that a Python program gives for a part, as the target of its node in a config.

    Args:
        part: the part, such as net.
        type: the class of the object, for messages.
        settings: what other parts read of the node, such as the channels of the data.

    Raises:
        UserError: if the program that runs gives none, such as a command for a run that was trained in Python.
    """
    objects = _objects.get() or {}
    if part not in objects:
        raise UserError(
            f"this run was trained in Python with an object of {type}, which no config can make again; load it "
            f"in Python, src.api.load(run, {part}=...)"
        )
    return objects[part]


@contextmanager
def giving(objects: dict[str, Any]) -> Iterator[None]:
    """Give these objects, by part."""
    token = _objects.set(objects)
    try:
        yield
    finally:
        _objects.reset(token)


def node_of(part: str, value: Any) -> dict[str, Any]:
    """The node of a config for an object."""
    kind = type(value)
    node = {"_target_": GIVEN, "part": part, "type": f"{kind.__module__}.{kind.__qualname__}"}
    if part == "data":  # other parts read these
        facts = {name: getattr(value, name) for name in ("channels", "num_classes", "batch_size")}
        node |= facts | {"size": list(value.size)}
    return node

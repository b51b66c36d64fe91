"""Parameters and annotations of a callable, including those that `**options: Unpack[Options]` declares (PEP 692)."""

import inspect
import typing
from typing import Any


def parameters(target: Any) -> dict[str, inspect.Parameter]:
    """The parameters of a callable by name, with the keys of an unpacked TypedDict in place of its `**options`.

    The default of an optional key is `...`. A callable without a signature takes any keyword argument.
    """
    try:
        found = dict(inspect.signature(target).parameters)
    except (TypeError, ValueError):  # built-in callables have no signature
        return {"kwargs": inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)}
    options = unpacked(target)
    if options is None:
        return found
    named = {name: p for name, p in found.items() if p.kind != p.VAR_KEYWORD}
    for key, hint in hints_of(options).items():
        default = inspect.Parameter.empty if key in options.__required_keys__ else ...
        named[key] = inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
    return named


def annotations(target: Any) -> dict[str, Any]:
    """The resolved annotations of a callable's parameters; empty if they cannot be resolved."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}
    options = unpacked(target)
    return hints if options is None else hints | hints_of(options)


def unpacked(target: Any) -> Any:
    """The TypedDict of a callable's `**options: Unpack[TypedDict]`; None if it has no such parameter."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        hints = typing.get_type_hints(function, include_extras=True).values()
    except (NameError, TypeError, AttributeError):
        return None
    return next((typing.get_args(hint)[0] for hint in hints if typing.get_origin(hint) is typing.Unpack), None)


def hints_of(options: Any) -> dict[str, Any]:
    """The annotations of a TypedDict's keys, without `Required` and `NotRequired`."""
    hints = typing.get_type_hints(options, include_extras=True)
    marks = (typing.Required, typing.NotRequired)
    return {key: typing.get_args(hint)[0] if typing.get_origin(hint) in marks else hint for key, hint in hints.items()}

"""Check a value against an annotation: its type, and the range that `annotated_types` give."""

import math
import operator
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt, MaxLen, MinLen, MultipleOf, Predicate
from beartype import BeartypeConf
from beartype.door import is_bearable
from beartype.roar import BeartypeException

# An int is accepted where a float is expected.
CONF = BeartypeConf(is_pep484_tower=True)
HOLDS = {Gt: operator.gt, Ge: operator.ge, Lt: operator.lt, Le: operator.le}
SIGNS = {Gt: ">", Ge: ">=", Lt: "<", Le: "<="}
LISTS = (list, tuple, Sequence, Iterable)
MAPPINGS = (dict, Mapping)


@dataclass(frozen=True)
class Violation:
    """A violation of an annotation by a value.

    Attributes:
        where: the place in the value, such as [0]; empty for the whole value.
        wanted: what the value must be.
        value: the value there.
        of_range: True if only the range is violated, not the type.
    """

    where: str
    wanted: str
    value: Any
    of_range: bool = True

    def __str__(self) -> str:
        return f"{self.where} must be {self.wanted}, got {as_yaml(self.value)}"


def violation(value: Any, hint: Any) -> Violation | None:
    """The violation of an annotation by a value of a config; None if there is none.

    A bool is not a number, and a float must be finite unless infinity is a bound: `Annotated[float, Le(inf)]`. A node
    with a `_target_`, still to be instantiated, satisfies any annotation.
    """
    if isinstance(value, dict) and "_target_" in value:
        return None
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return annotated_violation(value, arguments[0], list(flatten_limits(arguments[1:])))
    if origin in (typing.Union, types.UnionType):
        return union_violation(value, arguments)
    if origin is typing.Literal:
        if any(value == v and type(value) is type(v) for v in arguments):
            return None
        return Violation("", type_name(hint), value, any(type(value) is type(v) for v in arguments))
    if hint in (int, float):
        return number_violation(value, hint)
    if isinstance(value, list) and arguments and origin in LISTS:
        return list_violation(value, hint, origin, arguments)
    if isinstance(value, dict) and origin in MAPPINGS:
        return dict_violation(value, arguments[1])
    values = (value, tuple(value)) if isinstance(value, list) else (value,)
    return None if any(matches_type(v, hint) for v in values) else Violation("", type_name(hint), value, False)


def number_violation(value: Any, kind: type) -> Violation | None:
    """The violation of `int` or `float`."""
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int):
        return Violation("", type_name(kind), value, False)
    if isinstance(value, int):
        return None if abs(value) < 2**63 else Violation("", "an integer of 64 bits", value)
    return None if math.isfinite(value) else Violation("", "finite", value)


def annotated_violation(value: Any, hint: Any, limits: list[Any]) -> Violation | None:
    """The violation of a type with limits."""
    found = violation(value, hint)
    infinite = isinstance(value, float) and any(getattr(limit, "le", None) == math.inf for limit in limits)
    if found is not None and not (infinite and found.wanted == "finite"):
        return found
    if value is not None and not all(satisfies(value, limit) for limit in limits):
        return Violation("", describe_limits(limits), value)
    return None


def union_violation(value: Any, parts: Sequence[Any]) -> Violation | None:
    """The violation of a union: that of the alternatives whose type is right, or else of all."""
    found = [violation(value, part) for part in parts]
    if None in found:
        return None
    of_range = [c for c in found if c is not None and c.of_range]
    if deep := [c for c in of_range if c.where]:
        return deep[0]
    texts = [c.wanted for c in of_range] or [type_name(part) for part in parts]
    named = [v for part in parts for v in literal_values(part)]
    text = one_of(named) if all(map(literal_values, parts)) else " or ".join(dict.fromkeys(texts))
    return Violation("", text, value, bool(of_range))


def list_violation(value: list[Any], hint: Any, origin: Any, arguments: Sequence[Any]) -> Violation | None:
    """The violation by the first wrong element of a list, or by their number."""
    each: Sequence[Any] = [arguments[0]] * len(value)
    if origin is tuple and arguments[-1] is not Ellipsis:
        each = arguments
        if len(value) != len(each):
            return Violation("", type_name(hint), value)
    for i, (element, kind) in enumerate(zip(value, each, strict=True)):
        if found := violation(element, kind):
            return Violation(f"[{i}]{found.where}", found.wanted, found.value, True)
    return None


def dict_violation(value: dict[str, Any], kind: Any) -> Violation | None:
    """The violation by the first wrong value of a dict."""
    for key, element in value.items():
        if found := violation(element, kind):
            return Violation(f".{key}{found.where}", found.wanted, found.value, True)
    return None


def matches_type(value: Any, hint: Any) -> bool:
    """True if a value is of the annotated type, or the annotation is unknown to beartype."""
    try:
        return is_bearable(value, hint, conf=CONF)
    except BeartypeException:  # an annotation that beartype cannot read
        return True


def flatten_limits(metadata: Iterable[Any]) -> Iterator[Any]:
    """Grouped limits, such as an interval, as single limits."""
    for limit in metadata:
        if isinstance(limit, GroupedMetadata):
            yield from flatten_limits(limit)
        else:
            yield limit


def satisfies(value: Any, limit: Any) -> bool:
    """True if a value satisfies a limit; unknown metadata are no limits."""
    if type(limit) in HOLDS:
        return HOLDS[type(limit)](value, limit_value(limit))
    if isinstance(limit, MultipleOf):
        return value % limit.multiple_of == 0
    if isinstance(limit, MinLen):
        return len(value) >= limit.min_length
    if isinstance(limit, MaxLen):
        return len(value) <= limit.max_length
    return bool(limit.func(value)) if isinstance(limit, Predicate) else True


def limit_value(limit: Any) -> Any:
    """The number of a limit, such as 0 for Gt(gt=0)."""
    return getattr(limit, type(limit).__name__.lower())


def describe_limits(limits: list[Any]) -> str:
    """Limits in words, such as `in [0, 1)`."""
    bounds = {
        type(limit): limit_value(limit) for limit in limits if type(limit) in SIGNS and limit_value(limit) != math.inf
    }
    if len(bounds) == 2 and {Gt, Ge} & set(bounds) and {Lt, Le} & set(bounds):
        (low, high) = (bounds.get(Gt, bounds.get(Ge)), bounds.get(Lt, bounds.get(Le)))
        texts = [f"in {'(' if Gt in bounds else '['}{low}, {high}{')' if Lt in bounds else ']'}"]
    else:
        texts = [f"{SIGNS[kind]} {number}" for kind, number in bounds.items()]
    texts += [f"a multiple of {limit.multiple_of}" for limit in limits if isinstance(limit, MultipleOf)]
    texts += [f"at least {limit.min_length} long" for limit in limits if isinstance(limit, MinLen)]
    texts += [f"at most {limit.max_length} long" for limit in limits if isinstance(limit, MaxLen)]
    texts += [(limit.func.__doc__ or "").rstrip(".") for limit in limits if isinstance(limit, Predicate)]
    return " and ".join(texts)


def type_name(hint: Any) -> str:
    """The type of an annotation in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if hint in (None, type(None)):
        return "null"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_name(part) for part in arguments))
    if origin is typing.Literal:
        return one_of(arguments)
    if origin in LISTS:
        if origin is tuple and arguments[-1] is not Ellipsis:
            return f"a list of {len(arguments)}"
        return f"a list, each {type_name(arguments[0])}"
    if isinstance(hint, type):
        return f"of type {hint.__name__}"
    return "of type " + str(hint).replace("typing.", "").replace("collections.abc.", "")


def one_of(values: Sequence[Any]) -> str:
    """Values as a list in words."""
    return f"{'one of ' if len(values) > 1 else ''}{', '.join(map(as_yaml, values))}"


def literal_values(hint: Any) -> list[Any]:
    """The values of a literal annotation; empty for any other."""
    if hint is type(None):
        return [None]
    return list(typing.get_args(hint)) if typing.get_origin(hint) is typing.Literal else []


def as_yaml(value: Any) -> str:
    """A value as YAML writes it."""
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)

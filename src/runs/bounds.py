"""Whether a value is what an annotation says: its type, and the range that `annotated_types` give."""

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
    """How a value departs from an annotation.

    Attributes:
        where: in the value, such as [0]; empty for all of it.
        wanted: what it must be.
        value: what is there.
        of_range: whether the type is right, and only the range is not.
    """

    where: str
    wanted: str
    value: Any
    of_range: bool = True

    def __str__(self) -> str:
        return f"{self.where} must be {self.wanted}, got {shown(self.value)}"


def violation(value: Any, hint: Any) -> Violation | None:
    """How a value of a config departs from an annotation; None where it does not.

    A bool is no number, and a float is finite unless a bound of infinity says otherwise: `Annotated[float, Le(inf)]`.
    An object that is still to be made fits any annotation.
    """
    if isinstance(value, dict) and "_target_" in value:
        return None
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return annotated(value, arguments[0], list(flat(arguments[1:])))
    if origin in (typing.Union, types.UnionType):
        return of_union(value, arguments)
    if origin is typing.Literal:
        if any(value == v and type(value) is type(v) for v in arguments):
            return None
        return Violation("", wanted(hint), value, any(type(value) is type(v) for v in arguments))
    if hint in (int, float):
        return number(value, hint)
    if isinstance(value, list) and arguments and origin in LISTS:
        return of_list(value, hint, origin, arguments)
    if isinstance(value, dict) and origin in MAPPINGS:
        return of_dict(value, arguments[1])
    values = (value, tuple(value)) if isinstance(value, list) else (value,)
    return None if any(bearable(v, hint) for v in values) else Violation("", wanted(hint), value, False)


def number(value: Any, kind: type) -> Violation | None:
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int):
        return Violation("", wanted(kind), value, False)
    if isinstance(value, int):
        return None if abs(value) < 2**63 else Violation("", "an integer of 64 bits", value)
    return None if math.isfinite(value) else Violation("", "finite", value)


def annotated(value: Any, hint: Any, limits: list[Any]) -> Violation | None:
    """The complaint about a value that has limits beside its type."""
    found = violation(value, hint)
    infinite = isinstance(value, float) and any(getattr(limit, "le", None) == math.inf for limit in limits)
    if found is not None and not (infinite and found.wanted == "finite"):
        return found
    if value is not None and not all(holds(value, limit) for limit in limits):
        return Violation("", ranges(limits), value)
    return None


def of_union(value: Any, parts: Sequence[Any]) -> Violation | None:
    """The complaint that says most: of the alternatives whose type is right, or else of them all."""
    found = [violation(value, part) for part in parts]
    if None in found:
        return None
    of_range = [c for c in found if c is not None and c.of_range]
    if deep := [c for c in of_range if c.where]:
        return deep[0]
    texts = [c.wanted for c in of_range] or [wanted(part) for part in parts]
    named = [v for part in parts for v in literals(part)]
    text = one_of(named) if all(map(literals, parts)) else " or ".join(dict.fromkeys(texts))
    return Violation("", text, value, bool(of_range))


def of_list(value: list[Any], hint: Any, origin: Any, arguments: Sequence[Any]) -> Violation | None:
    """The complaint about the first element that is wrong, or about their number."""
    each: Sequence[Any] = [arguments[0]] * len(value)
    if origin is tuple and arguments[-1] is not Ellipsis:
        each = arguments
        if len(value) != len(each):
            return Violation("", wanted(hint), value)
    for i, (element, kind) in enumerate(zip(value, each, strict=True)):
        if found := violation(element, kind):
            return Violation(f"[{i}]{found.where}", found.wanted, found.value, True)
    return None


def of_dict(value: dict[str, Any], kind: Any) -> Violation | None:
    """The complaint about the first value that is wrong."""
    for key, element in value.items():
        if found := violation(element, kind):
            return Violation(f".{key}{found.where}", found.wanted, found.value, True)
    return None


def bearable(value: Any, hint: Any) -> bool:
    try:
        return is_bearable(value, hint, conf=CONF)
    except BeartypeException:  # an annotation that beartype cannot read
        return True


def flat(metadata: Iterable[Any]) -> Iterator[Any]:
    """Intervals and the like as the single limits that they stand for."""
    for limit in metadata:
        if isinstance(limit, GroupedMetadata):
            yield from flat(limit)
        else:
            yield limit


def holds(value: Any, limit: Any) -> bool:
    """Whether a value keeps a limit; what is not a limit that we know is none."""
    if type(limit) in HOLDS:
        return HOLDS[type(limit)](value, bound(limit))
    if isinstance(limit, MultipleOf):
        return value % limit.multiple_of == 0
    if isinstance(limit, MinLen):
        return len(value) >= limit.min_length
    if isinstance(limit, MaxLen):
        return len(value) <= limit.max_length
    return bool(limit.func(value)) if isinstance(limit, Predicate) else True


def bound(limit: Any) -> Any:
    """The number of a limit, such as 0 of Gt(gt=0)."""
    return getattr(limit, type(limit).__name__.lower())


def ranges(limits: list[Any]) -> str:
    """Limits as a user would say them."""
    bounds = {type(limit): bound(limit) for limit in limits if type(limit) in SIGNS and bound(limit) != math.inf}
    if len(bounds) == 2 and {Gt, Ge} & set(bounds) and {Lt, Le} & set(bounds):
        (low, high) = (bounds.get(Gt, bounds.get(Ge)), bounds.get(Lt, bounds.get(Le)))
        texts = [f"in {'(' if Gt in bounds else '['}{low}, {high}{')' if Lt in bounds else ']'}"]
    else:
        texts = [f"{SIGNS[kind]} {bound}" for kind, bound in bounds.items()]
    texts += [f"a multiple of {limit.multiple_of}" for limit in limits if isinstance(limit, MultipleOf)]
    texts += [f"at least {limit.min_length} long" for limit in limits if isinstance(limit, MinLen)]
    texts += [f"at most {limit.max_length} long" for limit in limits if isinstance(limit, MaxLen)]
    texts += [(limit.func.__doc__ or "").rstrip(".") for limit in limits if isinstance(limit, Predicate)]
    return " and ".join(texts)


def wanted(hint: Any) -> str:
    """The type that an annotation says, in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return wanted(arguments[0])
    if hint in (None, type(None)):
        return "null"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(wanted(part) for part in arguments))
    if origin is typing.Literal:
        return one_of(arguments)
    if origin in LISTS:
        if origin is tuple and arguments[-1] is not Ellipsis:
            return f"a list of {len(arguments)}"
        return f"a list, each {wanted(arguments[0])}"
    if isinstance(hint, type):
        return f"of type {hint.__name__}"
    return "of type " + str(hint).replace("typing.", "").replace("collections.abc.", "")


def one_of(values: Sequence[Any]) -> str:
    return f"{'one of ' if len(values) > 1 else ''}{', '.join(map(shown, values))}"


def literals(hint: Any) -> list[Any]:
    """The values that an annotation allows, where it names them; nothing for any other."""
    if hint is type(None):
        return [None]
    return list(typing.get_args(hint)) if typing.get_origin(hint) is typing.Literal else []


def shown(value: Any) -> str:
    """A value as it stands in YAML."""
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)

"""Parameters and annotations of callables, with the keys of an unpacked TypedDict."""

import inspect
from typing import Annotated, Any, Required, TypedDict, Unpack

from annotated_types import Ge

from src.nets import CNN
from src.utils.signatures import annotations, parameters


class Options(TypedDict, total=False):
    seed: Required[int]
    rate: Annotated[float, Ge(0)]


class Part:
    def __init__(self, width: int, **options: Unpack[Options]):
        self.width, self.options = width, options


def open_ended(width: int = 3, **anything: Any) -> None: ...


def test_keys_of_a_typed_dict_are_parameters():
    found = parameters(Part)
    assert list(found) == ["width", "seed", "rate"]
    assert [p.default is inspect.Parameter.empty for p in found.values()] == [True, True, False]
    assert not any(p.kind == p.VAR_KEYWORD for p in found.values())
    assert annotations(Part)["rate"] == Annotated[float, Ge(0)] and annotations(Part)["seed"] is int


def test_other_callables_are_unchanged():
    assert parameters(open_ended) == dict(inspect.signature(open_ended).parameters)
    assert annotations(open_ended) == {"width": int, "anything": Any, "return": type(None)}
    assert [p.kind for p in parameters(type).values()] == [inspect.Parameter.VAR_KEYWORD], "without a signature"
    assert annotations(type) == {}


def test_nets_name_all_that_they_take():
    assert {"channels", "width", "embed_dim", "num_classes", "in_channels"} < set(parameters(CNN)) & set(
        annotations(CNN)
    )

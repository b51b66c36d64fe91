"""Mistakes in a config are found before any work starts, and named by their YAML path in one line."""

from collections.abc import Sequence
from typing import Literal

import pytest

from src.utils.check_config import check_config
from src.utils.errors import UserError


class Part:
    def __init__(
        self,
        width: int,
        rate: float = 0.1,
        name: str = "a",
        size: tuple[int, ...] = (1,),
        pair: Sequence[float] = (1.0, 2.0),
        mode: Literal["fast", "slow"] = "fast",
        bound: float | None = None,
        speed: Literal[1, 2] | Literal["max"] | None = None,
        on: bool = True,
        inner: "Part | None" = None,
    ):
        pass


def open_ended(a: int, **more):
    pass


def without_hints(a, b=1):
    pass


def with_unknown_hint(a: "NoSuchType"):
    pass


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Under importlib mode the name of this file is no module that another could import."""
    import sys

    monkeypatch.setitem(sys.modules, "parts_of_a_test", type(sys)("parts_of_a_test"))
    for part in (Part, open_ended, without_hints, with_unknown_hint):
        setattr(sys.modules["parts_of_a_test"], part.__name__, part)


def node(target="Part", **arguments):
    return {"_target_": f"parts_of_a_test.{target}", **arguments}


def message_of(cfg) -> str:
    with pytest.raises(UserError) as caught:
        check_config(cfg)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "arguments",
    [
        {"width": 3},
        {"width": 3, "rate": 1},  # an int for a float
        {"width": 3, "rate": 1e-3},
        {"width": 3, "size": [1, 2, 3]},  # YAML has no tuples
        {"width": 3, "size": []},
        {"width": 3, "pair": [1, 2.5]},
        {"width": 3, "mode": "slow"},
        {"width": 3, "bound": None},
        {"width": 3, "bound": 2},
        {"width": 3, "inner": None},
        {"width": 3, "inner": node(width=4)},
        {"width": 3, "_partial_": True, "_convert_": "all"},
    ],
)
def test_fitting_values_pass(arguments):
    check_config({"net": node(**arguments)})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"width": "3"}, "net.width: '3' is not of type int"),
        ({"width": 3.5}, "net.width: 3.5 is not of type int"),
        ({"width": None}, "net.width: None is not of type int"),
        ({"width": [3]}, "net.width: [3] is not of type int"),
        ({"width": 3, "rate": "1e-3"}, "net.rate: '1e-3' is not of type float"),
        ({"width": 3, "rate": None}, "net.rate: None is not of type float"),
        ({"width": 3, "name": 3}, "net.name: 3 is not of type str"),
        ({"width": 3, "on": "yes"}, "net.on: 'yes' is not of type bool"),
        ({"width": 3, "size": 28}, "net.size: 28 is not of type tuple[int, ...]"),
        ({"width": 3, "size": ["a", "b"]}, "net.size: ['a', 'b'] is not of type tuple[int, ...]"),
        ({"width": 3, "pair": 2.0}, "net.pair: 2.0 is not of type Sequence[float]"),
        ({"width": 3, "mode": "fats"}, "net.mode: 'fats' is not one of 'fast', 'slow'"),
        ({"width": 3, "speed": 3}, "net.speed: 3 is not one of 1, 2, 'max', None"),
        ({"width": 3, "bound": "none"}, "net.bound: 'none' is not of type float | None"),
    ],
)
def test_a_wrong_type_is_refused(arguments, expected):
    assert message_of({"net": node(**arguments)}) == expected


def test_an_unknown_argument_is_refused_with_the_nearest_name():
    message = message_of({"net": node(widht=3)})
    assert message == "net.widht: parts_of_a_test.Part has no such argument. Did you mean width?"


def test_where_no_name_is_near_all_are_listed():
    message = message_of({"net": node(width=3, zzzzzz=1)})
    assert message.startswith("net.zzzzzz: ")
    assert message.endswith("It takes: width, rate, name, size, pair, mode, bound, speed, on, inner")


def test_missing_arguments_are_named_together():
    assert message_of({"net": node()}) == "net: parts_of_a_test.Part also needs width"
    assert message_of({"net": node("without_hints", b=2)}) == "net: parts_of_a_test.without_hints also needs a"


def test_a_partial_may_lack_arguments_but_not_have_unknown_or_wrong_ones():
    check_config({"net": node(_partial_=True)})
    assert message_of({"net": node(_partial_=True, widht=1)}).startswith("net.widht: ")
    assert message_of({"net": node(_partial_=True, width="a")}) == "net.width: 'a' is not of type int"


@pytest.mark.parametrize(
    "target", ["src.nets.unett.UNet", "src.nets.unet.UNett", "nosuchpackage.Thing", "nodots", "src.nets.unet."]
)
def test_a_target_that_cannot_be_imported_is_named(target):
    message = message_of({"net": {"_target_": target}})
    assert message.startswith(f"net._target_: {target} cannot be imported (")


@pytest.mark.parametrize("target", [3, None, ""])
def test_a_target_that_is_no_name_is_refused(target):
    assert message_of({"net": {"_target_": target}}).startswith("net._target_: ")


def test_the_path_leads_through_dictionaries_lists_and_arguments():
    assert message_of({"a": {"b": [node(width=1), node(width="x")]}}).startswith("a.b[1].width: ")
    assert message_of({"a": node(width=1, inner=node(width=1, inner=node(wdith=1)))}).startswith("a.inner.inner.wdith:")


def test_every_node_is_checked():
    good, bad = node(width=1), node(width="x")
    for broken in ("first", "second", "third"):
        cfg = {name: bad if name == broken else good for name in ("first", "second", "third")}
        assert message_of(cfg) == f"{broken}.width: 'x' is not of type int"


def test_extra_arguments_pass_where_the_target_takes_any():
    check_config({"a": node("open_ended", a=1, anything=[1])})
    assert message_of({"a": node("open_ended", a="x", anything=[1])}) == "a.a: 'x' is not of type int"
    assert message_of({"a": node("open_ended", anything=[1])}) == "a: parts_of_a_test.open_ended also needs a"


def test_what_is_not_annotated_is_not_judged():
    check_config({"a": node("without_hints", a="x", b=None), "b": node("with_unknown_hint", a=1)})


def test_keys_beside_targets_are_free():
    check_config({"name": "x", "seed": None, "list": [1, {"a": 2}], "empty": {}})


def test_a_class_of_torch():
    check_config({"optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 1e-3, "betas": [0.9, 0.99]}})
    message = message_of({"optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "weight_dekay": 0.1}})
    assert message == "optimizer.weight_dekay: torch.optim.AdamW has no such argument. Did you mean weight_decay?"


def test_the_trainer():
    trainer = {"_target_": "pytorch_lightning.Trainer", "max_steps": 3, "accelerator": "cpu"}
    check_config({"trainer": trainer})
    assert message_of({"trainer": {**trainer, "max_step": 3}}).endswith("Did you mean max_steps?")
    assert message_of({"trainer": {**trainer, "max_steps": "three"}}) == "trainer.max_steps: 'three' is not of type int"

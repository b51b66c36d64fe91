"""Mistakes in a config are found before any work starts, and named by their YAML path in one line."""

from collections.abc import Sequence
from math import inf, nan
from typing import Literal

import pytest

from src.runs.check_config import check_config
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
        ({"width": "3"}, "net.width must be of type int, got '3'"),
        ({"width": 3.5}, "net.width must be of type int, got 3.5"),
        ({"width": None}, "net.width must be of type int, got null"),
        ({"width": [3]}, "net.width must be of type int, got [3]"),
        ({"width": 3, "rate": "1e-3"}, "net.rate must be of type float, got '1e-3'"),
        ({"width": 3, "rate": None}, "net.rate must be of type float, got null"),
        ({"width": 3, "name": 3}, "net.name must be of type str, got 3"),
        ({"width": 3, "on": "yes"}, "net.on must be of type bool, got 'yes'"),
        ({"width": 3, "size": 28}, "net.size must be a list, each of type int, got 28"),
        ({"width": 3, "size": ["a", "b"]}, "net.size[0] must be of type int, got 'a'"),
        ({"width": 3, "pair": 2.0}, "net.pair must be a list, each of type float, got 2.0"),
        ({"width": 3, "mode": "fats"}, "net.mode must be one of 'fast', 'slow', got 'fats'"),
        ({"width": 3, "speed": 3}, "net.speed must be one of 1, 2, 'max', null, got 3"),
        ({"width": 3, "bound": "none"}, "net.bound must be of type float or null, got 'none'"),
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
    assert message_of({"net": node(_partial_=True, width="a")}) == "net.width must be of type int, got 'a'"


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
    assert message_of({"a": {"b": [node(width=1), node(width="x")]}}).startswith("a.b[1].width must be ")
    assert message_of({"a": node(width=1, inner=node(width=1, inner=node(wdith=1)))}).startswith("a.inner.inner.wdith:")


def test_every_node_is_checked():
    good, bad = node(width=1), node(width="x")
    for broken in ("first", "second", "third"):
        cfg = {name: bad if name == broken else good for name in ("first", "second", "third")}
        assert message_of(cfg) == f"{broken}.width must be of type int, got 'x'"


def test_extra_arguments_pass_where_the_target_takes_any():
    check_config({"a": node("open_ended", a=1, anything=[1])})
    assert message_of({"a": node("open_ended", a="x", anything=[1])}) == "a.a must be of type int, got 'x'"
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
    message = message_of({"trainer": {**trainer, "max_steps": "three"}})
    assert message == "trainer.max_steps must be -1 or of type int, got 'three'"


@pytest.mark.parametrize(
    ("target", "setting", "good", "bad"),
    [
        ("pytorch_lightning.Trainer", "max_steps", [-1, 0, 1], [-2, 2.0, True, None]),
        ("pytorch_lightning.Trainer", "max_epochs", [-1, 1, None], [0, -2]),
        ("pytorch_lightning.Trainer", "devices", [-1, 2, "auto", "0,1", [0, 1]], [0, -2, "two", [-1], 10**30]),
        ("pytorch_lightning.Trainer", "limit_train_batches", [1, 0.5, 1.0], [0, 0.0, 1.5, -1, nan]),
        ("pytorch_lightning.Trainer", "val_check_interval", [1, 0.5], [0, -1, None]),
        ("pytorch_lightning.Trainer", "check_val_every_n_epoch", [1, None], [0, -1]),
        ("pytorch_lightning.Trainer", "accumulate_grad_batches", [1], [0, -1]),
        ("pytorch_lightning.Trainer", "log_every_n_steps", [1], [0]),
        ("pytorch_lightning.Trainer", "gradient_clip_val", [0, 0.5, None], [-1, inf, nan]),
        ("pytorch_lightning.Trainer", "gradient_clip_algorithm", ["norm", "value", None], ["values"]),
        ("pytorch_lightning.Trainer", "max_time", ["00:00:00:05", None], ["00:00:00:00", "5 minutes", "00:05"]),
        ("pytorch_lightning.Trainer", "precision", ["32-true", "bf16-mixed", 16], [64, "64-true", "half"]),
        ("pytorch_lightning.Trainer", "strategy", ["auto", "ddp"], ["ddp_spawn", "ddp_fork", "dp"]),
        ("pytorch_lightning.Trainer", "overfit_batches", [0], [1, 0.1]),
        ("pytorch_lightning.callbacks.EarlyStopping", "patience", [0, 3], [-1, 1.5]),
        ("torch.optim.AdamW", "lr", [1e-3, 1], [0, -1, nan, inf, "fast", None]),
        ("torch.optim.AdamW", "betas", [[0.9, 0.99]], [[0.9], [0.9, 1.0], [-0.1, 0.9], 0.9]),
        ("torch.optim.Adam", "eps", [1e-8, 1], [0, -1, 1e30, nan]),
        ("torch.optim.SGD", "weight_decay", [0, 0.1], [-0.1, nan]),
        ("torch.optim.Adafactor", "eps", [[None, 1e-3]], []),
        ("src.optim.muon.Muon", "min_matrix_size", [1], [0]),
    ],
)
def test_ranges_of_parts(target, setting, good, bad):
    """Of those whose own signatures give types alone, too."""
    node = {"_target_": target, "_partial_": True}
    for value in good:
        check_config({"part": node | {setting: value}})
    for value in bad:
        assert message_of({"part": node | {setting: value}}).startswith(
            (f"part.{setting} must be ", f"part.{setting}[")
        )

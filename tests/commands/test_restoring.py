"""A checkpoint that a run cannot go on from is named in one line, whatever is wrong with what Lightning restores."""

from contextlib import nullcontext
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.trainer.connectors.checkpoint_connector import _CheckpointConnector

from src.callbacks.checkpoint import BestLastCheckpoint
from src.commands.restoring import check_resumable, pattern_like, restoring
from src.optim.lr_schedules import constant_lr
from src.utils.errors import UserError
from src.utils.files import Damaged, Misfit

LOOP = {"epoch_loop.state_dict": {"_batches_that_stepped": 0}, "epoch_progress": {"current": {"ready": 0}}}


def parts():
    """The trainer of a run, as far as it is looked at, and its optimizer and schedule with a spare parameter."""
    loop = SimpleNamespace(state_dict=lambda: deepcopy(LOOP))
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    return SimpleNamespace(fit_loop=loop, callbacks=[BestLastCheckpoint("x")]), optimizer, constant_lr(optimizer, 10)


@pytest.fixture
def checkpoint():
    trainer, _, _ = parts()
    net = torch.nn.Linear(2, 3)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.5)
    schedule = constant_lr(optimizer, 10)
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return {
        "global_step": 1,
        "loops": {"fit_loop": deepcopy(LOOP)},
        "callbacks": {c.state_key: c.state_dict() | {"best": 0.1} for c in trainer.callbacks},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{k: v for k, v in schedule.state_dict().items() if k != "lr_lambdas"}],
        "train_loss": torch.zeros(1, 2, 3),
    }


def test_a_whole_one_is_taken(checkpoint, tmp_path):
    torch.save(checkpoint, tmp_path / "last.ckpt")
    check_resumable(tmp_path / "last.ckpt", *parts())


PLACES = [
    ("loops", "fit_loop"),
    ("loops", "fit_loop", "epoch_progress"),
    ("loops", "fit_loop", "epoch_progress", "current"),
    ("loops", "fit_loop", "epoch_progress", "current", "ready"),
    ("callbacks", "BestLastCheckpoint"),
    ("callbacks", "BestLastCheckpoint", "best_step"),
    ("optimizer_states", 0),
    ("optimizer_states", 0, "state"),
    ("optimizer_states", 0, "state", 1),
    ("optimizer_states", 0, "state", 1, "exp_avg"),
    ("optimizer_states", 0, "param_groups", 0),
    ("optimizer_states", 0, "param_groups", 0, "lr"),
    ("lr_schedulers", 0),
    ("lr_schedulers", 0, "last_epoch"),
    ("train_loss",),
]


@pytest.mark.parametrize("wrong", ["text", [1], None], ids=repr)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_a_value_of_another_type_is_named(checkpoint, tmp_path, place, wrong):
    node = checkpoint
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = wrong
    torch.save(checkpoint, tmp_path / "last.ckpt")
    with pytest.raises(Damaged) as caught:
        check_resumable(tmp_path / "last.ckpt", *parts())
    said = str(caught.value)
    assert f"{tmp_path}/last.ckpt is damaged: {place[0]}" in said and "Resume from another checkpoint" in said
    assert "\n" not in said


def test_what_may_differ_between_versions_is_taken(checkpoint, tmp_path):
    """Switches of an optimizer that were null, and keys that are not there; sharded ones have no optimizer states."""
    group = checkpoint["optimizer_states"][0]["param_groups"][0]
    group |= {"amsgrad": None, "maximize": "no", "of_another_version": 1}
    del group["weight_decay"], checkpoint["loops"]["fit_loop"]["epoch_progress"]
    torch.save(checkpoint, tmp_path / "last.ckpt")
    check_resumable(tmp_path / "last.ckpt", *parts())
    del checkpoint["optimizer_states"]
    torch.save(checkpoint, tmp_path / "last.ckpt")
    check_resumable(tmp_path / "last.ckpt", *parts())


@pytest.mark.parametrize("damage", [False, True])
def test_an_optimizer_that_makes_no_step_is_checked_as_far_as_it_goes(checkpoint, tmp_path, damage):
    class Demanding(torch.optim.SGD):
        def step(self, closure):
            raise AssertionError

    trainer, _, schedule = parts()
    optimizer = Demanding([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    if damage:
        checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] = "high"
    torch.save(checkpoint, tmp_path / "last.ckpt")
    with pytest.raises(Damaged, match="lr must be") if damage else nullcontext():
        check_resumable(tmp_path / "last.ckpt", trainer, optimizer, schedule)


def test_patterns():
    assert pattern_like({"a": 1, "b": [1], "c": {}, "d": True}) == {
        "a?": float,
        "b?": (list, tuple),
        "c?": dict,
        "d?": bool,
    }
    assert pattern_like([torch.ones(1), None, "a", (1,), 2.0]) == (list, tuple)
    assert [pattern_like(live) for live in (torch.ones(1), None, "a", (1,), 2.0, {})] == [
        torch.Tensor, Any, str, (list, tuple), float, dict,
    ]  # fmt: skip


def test_the_state_of_our_checkpoints_is_checked():
    """Also where it is nothing at first, such as the best loss."""
    with pytest.raises(Misfit, match=r"callbacks.BestLastCheckpoint.best must be float or nothing"):
        BestLastCheckpoint("x").load_state_dict({"best": "low"})
    BestLastCheckpoint("x").load_state_dict({"best": None, "best_step": 3})


def test_what_lightning_raises_while_it_restores_names_the_checkpoint(tmp_path):
    """Any other error stays what it is."""
    path = tmp_path / "last.ckpt"
    connector = _CheckpointConnector(None)
    connector._loaded_checkpoint = {"loops": 1}
    with (
        pytest.raises(Damaged, match=r"last\.ckpt .*Resume from another checkpoint, or start a new run"),
        restoring(path),
    ):
        connector.restore_datamodule()
    with pytest.raises(AttributeError), restoring(None):
        connector.restore_datamodule()
    for error in (UserError("no"), ZeroDivisionError("no")):
        with pytest.raises(type(error), match="no"), restoring(path):
            raise error

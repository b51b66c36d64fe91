"""The checkpoint that a run goes on from: what Lightning restores of it is compared with what it is restored into."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.trainer.connectors import checkpoint_connector

from src.commands.cli import is_misconfiguration
from src.utils.checkpoints import GO_ON, without_tensors
from src.utils.errors import UserError
from src.utils.files import Damaged, check, reading, reason


def pattern_of(live: Any) -> Any:
    """The pattern, as `files.check` reads it, of what can take the place of a value.

    A dict may lack any key, since other versions of a part have others; what is None now may be anything.
    """
    if isinstance(live, dict):
        return {f"{key}?": pattern_of(value) for key, value in live.items()} or dict
    if live is None:
        return Any
    if isinstance(live, list | tuple):
        return (list, tuple)
    if isinstance(live, torch.Tensor):
        return torch.Tensor
    return float if isinstance(live, int | float) and not isinstance(live, bool) else type(live)


def check_resumable(path: Path, trainer: Any, optimizer: torch.optim.Optimizer, schedule: Any) -> None:
    """Refuse a checkpoint of which Lightning could not restore the loops, the callbacks or the optimizer.

    Args:
        path: the checkpoint.
        trainer: that restores it, with its callbacks.
        optimizer, schedule: as the run has them, of one spare parameter; the optimizer makes a step with it.

    Raises:
        Damaged: naming the first place that differs.
    """
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        parameter.grad = torch.zeros_like(parameter)
    with suppress(Exception):  # of an optimizer that wants more than gradients
        optimizer.step()
    state = optimizer.state_dict()
    group = {key: pattern_of(value) for key, value in state["param_groups"][0].items() if not isinstance(value, bool)}
    group = {f"{key}?": pattern for key, pattern in group.items()} | {"params?": [int]}  # a switch was null perhaps
    of_one = pattern_of(state["state"].get(0, {}))
    wanted = {
        "loops": {"fit_loop": pattern_of(trainer.fit_loop.state_dict())},
        "callbacks": pattern_of({c.state_key: c.state_dict() for c in trainer.callbacks}),
        "optimizer_states?": [{"state": {"*": of_one}, "param_groups": [group]}],
        "lr_schedulers": [pattern_of(schedule.state_dict())],
        "train_loss": torch.Tensor,
    }
    with reading(path, GO_ON):
        check(without_tensors(path), wanted)


@contextmanager
def restoring(path: Path | None) -> Iterator[None]:
    """Name the checkpoint in whatever else goes wrong while Lightning restores it.

    Raises:
        Damaged: in place of every such error that is not a user's already.
    """
    try:
        yield
    except Exception as error:
        if path is None or isinstance(error, UserError) or is_misconfiguration(error) or not restores(error):
            raise
        raise Damaged(f"{path} {reason(error)}. {GO_ON}") from error


def restores(error: Exception) -> bool:
    """Whether it was raised while Lightning restored a checkpoint."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    connector = checkpoint_connector.__name__
    return any("restore" in f.f_code.co_name and f.f_globals.get("__name__") == connector for f in frames)

"""Check the checkpoint that a run resumes from against the objects that Lightning restores from it."""

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


def pattern_like(live: Any) -> Any:
    """The pattern, for `files.check`, of values that can replace a live one.

    A dict may lack any key, since parts differ between versions; None may be replaced by anything.
    """
    if isinstance(live, dict):
        return {f"{key}?": pattern_like(value) for key, value in live.items()} or dict
    if live is None:
        return Any
    if isinstance(live, list | tuple):
        return (list, tuple)
    if isinstance(live, torch.Tensor):
        return torch.Tensor
    return float if isinstance(live, int | float) and not isinstance(live, bool) else type(live)


def check_resumable(path: Path, trainer: Any, optimizer: torch.optim.Optimizer, schedule: Any) -> None:
    """Refuse a checkpoint from which Lightning could not restore the loops, the callbacks or the optimizer.

    Args:
        path: the checkpoint.
        trainer: the trainer, with its callbacks.
        optimizer, schedule: those of the run for one spare parameter, with which the optimizer makes a step.

    Raises:
        Damaged: naming the first difference.
    """
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        parameter.grad = torch.zeros_like(parameter)
    with suppress(Exception):  # an optimizer may need more than gradients
        optimizer.step()
    state = optimizer.state_dict()
    group = {key: pattern_like(value) for key, value in state["param_groups"][0].items() if not isinstance(value, bool)}
    group = {f"{key}?": pattern for key, pattern in group.items()} | {"params?": [int]}  # switches may have been null
    of_one = pattern_like(state["state"].get(0, {}))
    wanted = {
        "loops": {"fit_loop": pattern_like(trainer.fit_loop.state_dict())},
        "callbacks": pattern_like({c.state_key: c.state_dict() for c in trainer.callbacks}),
        "optimizer_states?": [{"state": {"*": of_one}, "param_groups": [group]}],
        "lr_schedulers": [pattern_like(schedule.state_dict())],
        "train_loss": torch.Tensor,
    }
    with reading(path, GO_ON):
        check(without_tensors(path), wanted)


@contextmanager
def restoring(path: Path | None) -> Iterator[None]:
    """Name the checkpoint in any error that Lightning raises while it restores it.

    Raises:
        Damaged: in place of every such error, except a UserError.
    """
    try:
        yield
    except Exception as error:
        if path is None or isinstance(error, UserError) or is_misconfiguration(error) or not raised_in_restore(error):
            raise
        raise Damaged(f"{path} {reason(error)}. {GO_ON}") from error


def raised_in_restore(error: Exception) -> bool:
    """True if an error was raised while Lightning restored a checkpoint."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    connector = checkpoint_connector.__name__
    return any("restore" in f.f_code.co_name and f.f_globals.get("__name__") == connector for f in frames)

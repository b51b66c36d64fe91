"""Checkpoints that are written whole or not at all, and that load without running code."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from src.utils.atomic import restore_backup, save_tensors
from src.utils.errors import UserError
from src.utils.files import check, need_file, read_tensors, reading
from src.utils.merge_shards import merge_shards
from src.utils.sharded import SHARDED, is_sharded

CHECKPOINT = {"global_step": int, "state_dict": dict}
# What Lightning restores of one, but for its weights and the state of its optimizers, which may be sharded.
REST = {
    "global_step": int,
    "epoch": int,
    "pytorch-lightning_version": str,
    "loops": {"fit_loop": dict},
    "callbacks": dict,
    "lr_schedulers": [dict],
}
RESUMABLE = CHECKPOINT | REST | {"optimizer_states": [{"state": dict, "param_groups": [dict]}]}
GO_ON = "Go on from another one, or begin a new run"
# What tells whether the last one is the best.
NEWEST = {"global_step": int, "callbacks": {"BestLastCheckpoint?": {"best": (float, type(None)), "best_step": int}}}


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old file and then takes its place, so that a kill or a full disk leaves the old one.

    Lightning's own writer goes through the system's temporary folder, whose move across file systems is not atomic.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save_tensors(checkpoint, Path(path), f"the checkpoint of step {checkpoint.get('global_step')}")

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return load_checkpoint(Path(path), GO_ON, RESUMABLE)


def load_checkpoint(
    path: Path,
    instead: str = "Use another one, such as best.ckpt or last.ckpt",
    wanted: Any = CHECKPOINT,
    mmap: bool = False,
) -> dict[str, Any]:
    """Read a checkpoint onto the CPU: plain containers and tensors only, so that nobody's code runs.

    Args:
        path: of the file, or of the folder that several processes have written.
        instead: what to do where it cannot be read.
        wanted: what it must hold, as `files.check` reads it.
        mmap: leave the tensors of a file on the disk until they are used.

    Raises:
        UserError: where there is no such file, or it is truncated, altered or no checkpoint.
    """
    if not path.is_file() and not is_sharded(path):
        raise UserError(f"there is no checkpoint {path}")
    if path.is_file():
        return read_tensors(path, wanted, instead, mmap)
    with reading(path, instead):
        content = merge_shards(path)
        check(content, wanted)
        return content


def best_checkpoint(folder: Path) -> Path:
    """best.ckpt of a folder; or last.ckpt where that is the best one, and a kill came before the copy.

    A run that was never validated has no better one either.
    """
    best, last = folder / "best.ckpt", folder / "last.ckpt"
    restore_backup(best)
    restore_backup(last)
    newest = without_tensors(last, NEWEST)
    state = newest.get("callbacks", {}).get("BestLastCheckpoint", {})
    if state and not best.exists() and state["best"] is None:
        return last
    if state and state["best_step"] == newest["global_step"] != without_tensors(best).get("global_step"):
        return last
    return best


def without_tensors(path: Path, wanted: Any = dict) -> dict[str, Any]:
    """A checkpoint of which the tensors are left on the disk; empty where it cannot be read, or is not as wanted."""
    try:
        file = path / SHARDED if path.is_dir() else path
        need_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        check(content, wanted)
        return content
    except Exception:
        return {}

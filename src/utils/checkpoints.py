"""Checkpoints that are written atomically and loaded without running code from them."""

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
# The entries that Lightning restores, except the weights and the optimizer states, which may be sharded.
REST = {
    "global_step": int,
    "epoch": int,
    "pytorch-lightning_version": str,
    "loops": {"fit_loop": dict},
    "callbacks": dict,
    "lr_schedulers": [dict],
}
RESUMABLE = CHECKPOINT | REST | {"optimizer_states": [{"state": dict, "param_groups": [dict]}]}
GO_ON = "Resume from another checkpoint, or start a new run"
# The entries that tell if the last checkpoint is the best one.
NEWEST = {"global_step": int, "callbacks": {"BestLastCheckpoint?": {"best": (float, type(None)), "best_step": int}}}


class AtomicCheckpointIO(TorchCheckpointIO):
    """Reads and writes checkpoints; a write replaces the old file at its end, so that a kill or a full disk keeps it.

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
    """Read a checkpoint onto the CPU: plain containers and tensors only, so that no code in it runs.

    Args:
        path: the file, or the folder of a sharded checkpoint.
        instead: advice for the error message.
        wanted: the pattern of its content, for `files.check`.
        mmap: True to map the tensors of a file into memory instead of reading them.

    Raises:
        UserError: if the file is missing, truncated, altered or not a checkpoint.
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
    """The path of the best checkpoint of a folder.

    It is best.ckpt, or last.ckpt if that is the best but the run was killed before the copy, or was never validated.
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
    """The content of a checkpoint with tensors mapped from the disk; empty if it is unreadable or does not match."""
    try:
        file = path / SHARDED if path.is_dir() else path
        need_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        check(content, wanted)
        return content
    except Exception:
        return {}

"""Merge a checkpoint of trainer=fsdp into one file: python -m src.utils.merge_shards RUN/checkpoints/last.ckpt"""

import sys
from pathlib import Path
from typing import Any

from src.utils.atomic import save_tensors
from src.utils.errors import UserError
from src.utils.files import read_tensors
from src.utils.override_syntax import assignment, command
from src.utils.sharded import SHARDED, is_sharded, safe_shard_loading

ADVICE = "Use another checkpoint"


def merge_shards(folder: Path) -> dict[str, Any]:
    """Load a sharded checkpoint in the format of a single process; it has to fit in memory.

    Raises:
        Damaged: if a file is missing, truncated or altered.
    """
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.format_utils import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    state: dict[str, Any] = {}
    with safe_shard_loading(folder, ADVICE):
        _load_state_dict(state, FileSystemReader(folder), planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    optimizers = [index_optimizer_state(state[name]) for name in sorted(state) if name.startswith("optimizer_")]
    rest = read_tensors(folder / SHARDED, dict, ADVICE)
    return {**rest, "state_dict": state["state_dict"], "optimizer_states": optimizers}


def index_optimizer_state(state: dict[str, Any]) -> dict[str, Any]:
    """Replace the names of parameters in the state of an optimizer by their indices."""
    names = [name for group in state["param_groups"] for name in group["params"]]
    index = {name: i for i, name in enumerate(names)}
    groups = [group | {"params": [index[name] for name in group["params"]]} for group in state["param_groups"]]
    return {"state": {index[name]: value for name, value in state["state"].items()}, "param_groups": groups}


def main(folder: Path) -> None:
    """Write the checkpoint as one file beside the folder."""
    if not is_sharded(folder):
        raise UserError(f"{folder} is not the folder of a checkpoint of trainer=fsdp")
    file = folder.with_name(f"{folder.stem}_whole.ckpt")
    save_tensors(merge_shards(folder), file, "the checkpoint")
    use = command("sample", assignment("run", folder.parents[1]), assignment("ckpt", file.stem))
    print(f"written  {file}\nuse it   {use}")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except (UserError, IndexError) as error:
        sys.exit(f"error: {error if isinstance(error, UserError) else 'name the folder of a checkpoint'}")

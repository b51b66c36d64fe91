"""Put a checkpoint of trainer=fsdp together in one file: python -m src.utils.gather RUN/checkpoints/last.ckpt"""

import sys
from pathlib import Path
from typing import Any

from src.utils.errors import UserError
from src.utils.files import read_tensors
from src.utils.override_syntax import assignment, command
from src.utils.sharded import SHARDED, harmless, is_sharded

ADVICE = "Use another checkpoint"


def gather(folder: Path) -> dict[str, Any]:
    """The checkpoint that one process would have written, of one that several have; all of it has to fit in memory.

    Raises:
        Damaged: where a part is missing, cut off or altered.
    """
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.format_utils import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    parts: dict[str, Any] = {}
    with harmless(folder, ADVICE):
        _load_state_dict(parts, FileSystemReader(folder), planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    optimizers = [by_number(parts[name]) for name in sorted(parts) if name.startswith("optimizer_")]
    rest = read_tensors(folder / SHARDED, dict, ADVICE)
    return {**rest, "state_dict": parts["state_dict"], "optimizer_states": optimizers}


def by_number(state: dict[str, Any]) -> dict[str, Any]:
    """The state of an optimizer whose parameters have numbers, of one in which they have names."""
    names = [name for group in state["param_groups"] for name in group["params"]]
    number = {name: i for i, name in enumerate(names)}
    groups = [group | {"params": [number[name] for name in group["params"]]} for group in state["param_groups"]]
    return {"state": {number[name]: value for name, value in state["state"].items()}, "param_groups": groups}


def main(folder: Path) -> None:
    """Take the place of the folder by one file."""
    from src.utils.atomic import write_whole

    if not is_sharded(folder):
        raise UserError(f"{folder} is not the folder of a checkpoint of trainer=fsdp")
    file = folder.with_name(f"{folder.stem}_whole.ckpt")
    write_whole(gather(folder), file, "the checkpoint")
    use = command("sample", assignment("run", folder.parents[1]), assignment("ckpt", file.stem))
    print(f"written  {file}\nuse it   {use}")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except (UserError, IndexError) as error:
        sys.exit(f"error: {error if isinstance(error, UserError) else 'name the folder of a checkpoint'}")

"""Weights, gradients and optimizer state split among processes: fully sharded data parallel training."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn

from src.utils.ranges import NonNegativeInt
from src.utils.sharded import harmless
from src.utils.whole_files import remove, take_place

SHARDED = "meta.pt"  # the file of a sharded checkpoint with all but its tensors


class FullyShard(ModelParallelStrategy):
    """Each process holds its part of every weight, of its average, its gradient and its optimizer state.

    They are gathered part by part as a batch passes through the net. A checkpoint is a folder with a file of each
    process, which any number of processes can go on from; it is there as a whole or not at all.

    Args:
        min_parameters: parts of the net with fewer are gathered together with what is around them.
        process_group_backend: None takes that of the device.

    Source: Zhao et al. 2023, arXiv:2304.11277; `fully_shard` in torch.
    """

    def __init__(
        self, min_parameters: NonNegativeInt = 1_000_000, process_group_backend: Literal["gloo", "nccl"] | None = None
    ):
        super().__init__(tensor_parallel_size=1, process_group_backend=process_group_backend)
        self.min_parameters = min_parameters

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def shard(self, model: nn.Module) -> None:
        """Split the weights of a model, its large parts first."""
        from torch.distributed.fsdp import fully_shard
        from torch.distributed.tensor import DTensor

        mesh = self.device_mesh["data_parallel"]
        for part in reversed(list(model.modules())):  # children come before what they are in
            if isinstance(part, nn.ModuleList | nn.ModuleDict):
                continue  # nothing passes through them
            own = [p for p in part.parameters() if not isinstance(p, DTensor)]
            if part is model or sum(p.numel() for p in own) >= self.min_parameters:
                fully_shard(part, mesh=mesh)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        path = Path(self.broadcast(str(checkpoint_path)))
        with harmless(path, "Use another checkpoint") if path.is_dir() else nullcontext():
            return super().load_checkpoint(path, weights_only=True)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        path = Path(self.broadcast(str(filepath)))
        partial = path.with_name(f".{path.name}.partial")
        if self.is_global_zero:
            remove(partial)  # of a process that was killed
        self.barrier()
        super().save_checkpoint(checkpoint, partial, storage_options)
        self.barrier()
        if self.is_global_zero:
            take_place(partial, path)
        self.barrier()

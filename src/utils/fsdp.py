"""Fully sharded data parallel training: weights, gradients and optimizer state are split among the processes."""

from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn

from src.utils.atomic import partial_path, remove, replace
from src.utils.checkpoints import GO_ON, RESUMABLE, load_checkpoint
from src.utils.errors import UserError, not_finite
from src.utils.ranges import NonNegativeInt
from src.utils.sharded import checksums, safe_shard_loading, shard_files, write_checksums


class FSDP2Strategy(ModelParallelStrategy):
    """Fully sharded data parallelism: weights, averages, gradients and optimizer state are divided among the processes.

    They are gathered module by module as a batch passes through the net. A checkpoint is a folder with one file per
    process, written atomically; a run may resume from it with another number of processes.

    Args:
        min_parameters: number of parameters below which a module is gathered with its parent module.
        process_group_backend: the communication backend; None for the default of the device.

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
        """Shard the weights of a model, children before their parents."""
        from torch.distributed.fsdp import fully_shard
        from torch.distributed.tensor import DTensor

        mesh = self.device_mesh["data_parallel"]
        for part in reversed(list(model.modules())):  # children come before their parents
            if isinstance(part, nn.ModuleList | nn.ModuleDict):
                continue  # it has no forward pass
            own = [p for p in part.parameters() if not isinstance(p, DTensor)]
            if part is model or (own and sum(p.numel() for p in own) >= self.min_parameters):
                fully_shard(part, mesh=mesh)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a sharded checkpoint, each process its shard, or a single file; all processes raise the same error.

        Raises:
            UserError: if it is damaged, or a weight is not finite.
        """
        path = Path(self.broadcast(str(checkpoint_path)))
        try:
            return self.load_checked(path)
        except UserError as error:
            error.everywhere = True
            raise

    def load_checked(self, path: Path) -> dict[str, Any]:
        """Load the weights and optimizer states of a checkpoint, and return its other entries."""
        if path.is_file():
            load_checkpoint(path, GO_ON, RESUMABLE, mmap=True)  # checks the file, which torch then reads unchecked
            return super().load_checkpoint(path, weights_only=True)
        finite = self.finite_tensors()
        with safe_shard_loading(path, GO_ON, self.checksums(path)):
            rest = super().load_checkpoint(path, weights_only=True)
        if lost := sorted({name for names in self.gather_objects(finite - self.finite_tensors()) for name in names}):
            raise not_finite(path, lost[0])
        return rest

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        path = Path(self.broadcast(str(filepath)))
        partial = partial_path(path)
        if self.is_global_zero:
            remove(partial)  # left by a killed process
        self.barrier()
        super().save_checkpoint(checkpoint, partial, storage_options)
        self.barrier()
        found = self.checksums(partial)
        if self.is_global_zero:
            write_checksums(partial, found)
            replace(partial, path)
        self.barrier()

    def checksums(self, folder: Path) -> dict[str, int]:
        """The checksums of the files of a sharded checkpoint, by name; each process computes a share of them."""
        names = self.broadcast(shard_files(folder) if self.is_global_zero else [])
        shares = self.gather_objects(checksums(folder, names[self.global_rank :: self.world_size]))
        return {name: digest for share in shares for name, digest in share.items()}

    def finite_tensors(self) -> set[str]:
        """The names of the model's tensors whose shard on this process is finite."""
        state = self.model.state_dict() if self.model else {}
        local = {name: getattr(value, "_local_tensor", value) for name, value in state.items()}
        return {name for name, value in local.items() if value.isfinite().all()}

    def gather_objects(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

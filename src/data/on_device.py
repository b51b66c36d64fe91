"""Batches on a GPU before the step that needs them: small data sets are held there, others copied ahead."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from src.data.samples import Batch, BatchDataset, TensorSamples, WithTraining

SHARE = 0.02  # of the memory of a GPU, which data that are held there may take


def is_held(data: BatchDataset, device: torch.device) -> bool:
    """True if data in memory are small enough to be held on a GPU as a whole."""
    if isinstance(data, WithTraining):
        return is_held(data.val_set, device) and is_held(data.train_set, device)
    if device.type != "cuda" or type(data) is not TensorSamples or not isinstance(data.x, Tensor):
        return False
    image = data.image.nbytes if isinstance(data.image, Tensor) else 0
    return data.x.nbytes + image <= SHARE * torch.cuda.get_device_properties(device).total_memory


class CopiedAhead:
    """A data loader whose batches are copied to a GPU on a stream of their own, while the step before runs.

    The order of the batches is that of the loader, of which one more is read than was asked for.

    Args:
        loader: gives batches in pinned memory.
        device: the GPU.
    """

    def __init__(self, loader: Any, device: torch.device):
        self.loader, self.device = loader, device

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        stream = torch.cuda.Stream(self.device)
        ahead: tuple[Batch, torch.cuda.Event] | None = None
        for batch in self.loader:
            with torch.cuda.stream(stream):
                copied = apply_to_collection(batch, Tensor, lambda x: x.to(self.device, non_blocking=True))
            following = copied, stream.record_event()
            if ahead is not None:
                yield self.ready(*ahead)
            ahead = following
        if ahead is not None:
            yield self.ready(*ahead)

    def ready(self, batch: Batch, copied: torch.cuda.Event) -> Batch:
        """Let the current stream wait for the copies, and keep their memory until it has used them."""
        current = torch.cuda.current_stream(self.device)
        current.wait_event(copied)
        apply_to_collection(batch, Tensor, lambda x: x.record_stream(current))
        return batch

    # ---- what Lightning looks for ----

    @property
    def sampler(self) -> Any:
        """The sampler, whose epoch Lightning sets."""
        return self.loader.sampler

    @property
    def batch_sampler(self) -> Any:
        """None: the sampler gives whole batches."""
        return self.loader.batch_sampler

    @property
    def _iterator(self) -> Any:
        """The iterator of persistent workers, which Lightning ends."""
        return self.loader._iterator

    @_iterator.setter
    def _iterator(self, value: Any) -> None:
        self.loader._iterator = value

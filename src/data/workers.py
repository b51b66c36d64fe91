"""Work that is shared out among processes."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset


class _Calls(Dataset):
    def __init__(self, work: Callable[[Any], Any]):
        self.work = work

    def __getitem__(self, item: Any) -> Any:
        return self.work(item)


def in_processes(work: Callable[[Any], Any], items: Sequence[Any], workers: int) -> Iterator[Any]:
    """What `work` makes of each item, in order; made in this process where `workers` is 0."""
    # Its own generator, so that reading images does not move the global one.
    draws = torch.Generator()
    yield from DataLoader(_Calls(work), batch_size=None, sampler=items, num_workers=workers, generator=draws)


def cpus() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

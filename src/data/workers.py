"""Worker processes that load data."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from src.utils.processes import STOPPING


class _Calls(Dataset):
    def __init__(self, work: Callable[[Any], Any]):
        self.work = work

    def __getitem__(self, item: Any) -> Any:
        return self.work(item)


def map_in_workers(work: Callable[[Any], Any], items: Sequence[Any], workers: int) -> Iterator[Any]:
    """Yield `work(item)` for each item, in order, computed by worker processes; by this process if `workers` is 0."""
    # A separate generator, so that reading images does not advance the global one.
    draws = torch.Generator()
    yield from DataLoader(_Calls(work), batch_size=None, sampler=items, num_workers=workers, generator=draws)


def outlive_signals(worker: int) -> None:
    """Ignore the first of each signal that stops a run, in a worker process of a data loader.

    Terminals and clusters send it to every process; the run finishes its step and then ends the worker. A second
    signal ends the worker at once.
    """
    for number in STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, default_from_now)


def default_from_now(number: int, frame: Any) -> None:
    """Ignore this signal, and restore the default action for the next."""
    signal.signal(number, signal.SIG_DFL)


def cpus() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

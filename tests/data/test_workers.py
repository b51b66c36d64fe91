"""Worker processes: who does the work, and what it leaves untouched."""

import os
import signal

import pytest
import torch

from src.data.workers import cpus, map_in_workers, outlive_signals
from src.utils.processes import STOPPING


def process(item):
    return item, os.getpid()


@pytest.mark.parametrize("workers", [0, 2])
def test_who_works(workers):
    state = torch.get_rng_state()
    found = list(map_in_workers(process, range(6), workers))
    processes = {number for _, number in found}
    assert [item for item, _ in found] == list(range(6))
    assert len(processes) == max(1, workers) and (os.getpid() in processes) == (workers == 0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("number", STOPPING)
@pytest.mark.parametrize("ignored", [True, False])
def test_a_worker_outlives_the_first_signal_of_each_kind(number, ignored):
    """The second ends it; those that `nohup` ignores stay ignored."""
    before = {one: signal.getsignal(one) for one in STOPPING}
    try:
        for one in STOPPING:
            signal.signal(one, signal.SIG_IGN if ignored and one == number else signal.SIG_DFL)
        outlive_signals(0)
        assert {one for one in STOPPING if signal.getsignal(one) == signal.SIG_IGN} == ({number} if ignored else set())
        signal.raise_signal(number)
        assert signal.getsignal(number) == (signal.SIG_IGN if ignored else signal.SIG_DFL)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def test_the_cores_are_those_of_this_process(monkeypatch):
    if hasattr(os, "sched_getaffinity"):
        assert cpus() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert cpus() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpus() == 1


def test_the_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 4} if pid == 0 else {0}, raising=False)
    assert cpus() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert cpus() == 5

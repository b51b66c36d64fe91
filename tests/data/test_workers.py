"""Worker processes: who does the work, and what it leaves untouched."""

import os

import pytest
import torch

from src.data.workers import map_in_workers


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

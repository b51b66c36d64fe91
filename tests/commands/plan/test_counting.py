"""Counts against closed forms, and against what the profiler sees."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from src.commands.plan.counting import GPUKernels, MemoryTracker, SavedTensors, count_flops


def attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize(
    ("work", "shapes", "forward"),
    [
        (F.linear, [(5, 7), (11, 7)], 2 * 5 * 7 * 11),
        (lambda x, w: F.conv2d(x, w, padding=1), [(2, 3, 8, 6), (4, 3, 3, 3)], 2 * (2 * 8 * 6) * (3 * 3 * 3) * 4),
        (lambda x, w: F.conv1d(x, w, stride=2), [(2, 3, 8), (4, 3, 2)], 2 * (2 * 4) * (3 * 2) * 4),
        (attention, [(2, 4, 9, 8)] * 3, 2 * (2 * (2 * 4) * 9 * 9 * 8)),
    ],
    ids=["linear", "conv2d", "conv1d", "attention"],
)
@pytest.mark.parametrize("on_gpu", [False, True])
def test_flops(work, shapes, forward, on_gpu):
    """Two for each multiplication with its addition; backward once for each of the two factors of every product."""
    factors = [torch.randn(shape, requires_grad=True) for shape in shapes]
    with count_flops() as flops, GPUKernels() if on_gpu else nullcontext():
        result = work(*factors)
    assert flops.get_total_flops() == forward
    with count_flops() as flops:
        result.sum().backward()
    assert flops.get_total_flops() == 2 * forward


def test_what_is_kept():
    """Of a dense layer its input, of a sine that of the sine; weights are there anyway, and views share memory."""
    layer, x = nn.Linear(6, 4), torch.randn(3, 6)
    kept = SavedTensors(layer.parameters())
    with saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        y = layer(x).sin()
        y = y.view(12) * y.flatten().detach()
    assert kept.forget() == 4 * (3 * 6 + 3 * 4 + 3 * 4)
    assert kept.forget() == 0 and y.requires_grad


def test_the_peak():
    """Three tensors of which at most two are alive at once; what was there before, and views, do not count."""
    x = torch.zeros(1000)
    with MemoryTracker() as traffic:
        y = x + 1
        z = y.view(10, 100) * 2
        del y
        z = z.sum()
        del z
    assert traffic.peak == 2 * 4000 and traffic.now == 0
    assert traffic.operations == 3

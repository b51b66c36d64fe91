"""Bounds on the predicted data, against their formulas and an independent implementation."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch.testing import assert_close

from src.samplers.clipping import DynamicClip, NoClip, StaticClip
from tests.samplers.registry import SHAPES

pytestmark = pytest.mark.strength(1)


@pytest.mark.parametrize("data", SHAPES)
class TestClips:
    def test_unclipped(self, data, randn):
        x = randn(3, *data)
        assert NoClip()(x) is x

    @pytest.mark.parametrize("bound", [0.3, 1.0, 2.5])
    def test_static(self, bound, data, randn):
        x = 3 * randn(4, *data)
        assert np.array_equal(StaticClip(bound)(x), np.clip(x.numpy(), -bound, bound))

    @pytest.mark.parametrize(("bound", "low"), [(1.0, -1.0), ([[-0.7], [1.5]], -0.7)])
    def test_snapping(self, bound, low, data, randn):
        """Only what is near the lowest value moves, and it moves there."""
        x = 2 * randn(4, *data)
        clipped, snapped = StaticClip(bound)(x), StaticClip(bound, snap=0.3)(x)
        near = clipped < low + 0.3
        assert near.any() and (snapped[near] == low).all() and torch.equal(snapped[~near], clipped[~near])

    @pytest.mark.parametrize("bound", [0.5, 1.0, 2.0])
    @pytest.mark.parametrize("quantile", [0.5, 0.9, 0.995, 1.0])
    def test_dynamic(self, quantile, bound, data, randn):
        """Imagen's formula, sample by sample: one that is within the bound, and larger ones."""
        x = torch.tensor([0.05, 1.0, 3.0, 40.0]).double().view(-1, *[1] * len(data)) * randn(4, *data)
        clipped = DynamicClip(quantile, bound)(x)
        for one, found in zip(x.numpy(), clipped.numpy(), strict=True):
            s = max(bound, np.quantile(np.abs(one), quantile))
            np.testing.assert_allclose(found, np.clip(one, -s, s) * bound / s, rtol=0, atol=1e-12)
        assert clipped.abs().max() <= bound * (1 + 1e-12)

    @pytest.mark.parametrize("quantile", [0.9, 0.995])
    def test_dynamic_is_that_of_diffusers(self, quantile, data, randn):
        x = (3 * randn(4, *data)).view(4, *(data if len(data) > 1 else (1, *data)))  # points have no channels there
        theirs = DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=quantile, sample_max_value=1e9)
        assert_close(DynamicClip(quantile)(x), theirs._threshold_sample(x), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_dynamic_keeps_the_type(self, dtype, data, randn):
        x = 3 * randn(4, *data)
        clipped = DynamicClip(0.9)(x.to(dtype))
        assert clipped.dtype == dtype
        assert_close(clipped.double(), DynamicClip(0.9)(x), rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_dynamic_of_everything_is_static_where_nothing_exceeds_the_bound(randn):
    x = 0.1 * randn(5, 3, 4)
    assert torch.equal(DynamicClip()(x), x)


def test_each_channel_snaps_to_its_own_lowest_value():
    x = torch.tensor([[-0.9, 0.15], [0.0, 3.0]])
    snapped = StaticClip([[-1.0, 0.0], [1.0, 2.0]], snap=0.2)(x)
    assert_close(snapped, torch.tensor([[-1.0, 0.0], [0.0, 2.0]]), rtol=0, atol=0)
    assert torch.equal(StaticClip(None, snap=0.2)(x), x)
    with pytest.raises(ValueError, match=r"clip\.snap must be >= 0, got -0.1"):
        StaticClip(1.0, snap=-0.1)


@pytest.mark.parametrize("bound", [0, -1.0])
def test_refuses_a_bound(bound):
    with pytest.raises(ValueError, match=rf"clip\.bound must be > 0, got {bound}; use clip=none for no clipping"):
        StaticClip(bound)
    with pytest.raises(ValueError, match=rf"clip\.bound must be > 0, got 0.995 and {bound}"):
        DynamicClip(bound=bound)


@pytest.mark.parametrize("quantile", [0.0, 1.1])
def test_refuses_a_quantile(quantile):
    with pytest.raises(ValueError, match=rf"clip\.quantile must be in \(0, 1\] .*got {quantile} and"):
        DynamicClip(quantile)


def test_no_bound():
    x = torch.tensor([[-7.0, 5.0]])
    assert StaticClip(None)(x) is x


def test_a_range_of_all_channels_or_of_each():
    x_0 = torch.tensor([[-3.0, 3.0], [-0.5, 0.5]])[:, :, None]
    assert StaticClip([[-1.0], [2.0]])(x_0).flatten().tolist() == [-1, 2, -0.5, 0.5]
    assert StaticClip([[-1.0, 0.0], [2.0, 0.25]])(x_0).flatten().tolist() == [-1, 0.25, -0.5, 0.25]


@pytest.mark.parametrize("bound", [[[1.0], [1.0]], [[0.0], [1.0, 2.0]], [[0.0]], [[0.0], [1.0], [2.0]]])
def test_an_impossible_range_is_refused(bound):
    with pytest.raises(ValueError, match=r"clip\.bound must be a number, or"):
        StaticClip(bound)

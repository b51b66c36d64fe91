"""Random features: fixed, of unit variance, and different for different data."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from src.nets.random_features import RandomFeatures

DATA = {
    "signal": (1, (64,)),
    "3-channel signal": (3, (32,)),
    "image": (1, (16, 16)),
    "wide image": (3, (16, 40)),
    "volume": (2, (16, 8, 24)),
}


@pytest.fixture(params=DATA)
def data(request):
    return DATA[request.param]


@torch.no_grad()
def test_each_level_halves_the_size_of_the_one_before(data, randn):
    channels, size = data
    features = RandomFeatures(channels, size, width=8, depth=3)(randn(2, channels, *size).float())
    assert [f.shape for f in features] == [(2, 8, *(s // 2**i for s in size)) for i in (1, 2, 3)]


@torch.no_grad()
def test_equals_its_formula(data, randn):
    """Strided convolutions of the rectified level before, without biases."""
    channels, size = data
    net, x = RandomFeatures(channels, size, width=4, depth=2).double(), randn(2, channels, *size)
    conv = (F.conv1d, F.conv2d, F.conv3d)[len(size) - 1]
    first = conv(x, net.levels[0].weight, stride=2, padding=1)
    second = conv(first.clamp(min=0), net.levels[1].weight, stride=2, padding=1)
    for ours, expected in zip(net(x), (first, second), strict=True):
        assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize(("channels", "size"), [(1, (1024,)), (3, (512,)), (1, (64, 64)), (3, (64, 48))])
def test_unit_variance_for_white_noise(channels, size, randn):
    """In the mean over channels and weights, away from the padding."""
    x = randn(4, channels, *size).float()
    for level in range(3):
        variances = []
        for seed in range(8):
            f = RandomFeatures(channels, size, width=64, seed=seed)(x)[level]
            inner = f[(slice(None), slice(None), *[slice(1, -1)] * len(size))]
            variances.append(inner.square().mean().item())
        assert sum(variances) / 8 == pytest.approx(1, abs=0.15)


def test_the_seed_decides(data):
    channels, size = data
    torch.manual_seed(0)
    a = RandomFeatures(channels, size, width=8, depth=2)
    torch.manual_seed(1)
    b, c = RandomFeatures(channels, size, width=8, depth=2), RandomFeatures(channels, size, width=8, depth=2, seed=1)
    assert all(map(torch.equal, a.parameters(), b.parameters()))
    assert not torch.equal(a.levels[0].weight, c.levels[0].weight)


@torch.no_grad()
def test_nearer_data_has_nearer_features(data, randn):
    channels, size = data
    net = RandomFeatures(channels, size, depth=2)
    x, change = randn(2, 1, channels, *size).float()
    distances = [
        sum((a - b).square().mean().item() for a, b in zip(net(x + step * change), net(x), strict=True))
        for step in (0.0, 0.1, 0.2, 0.4, 0.8)
    ]
    assert distances[0] == 0 and distances == sorted(distances) and distances[1] > 1e-4


@pytest.mark.parametrize(
    ("size", "depth", "message"),
    [
        ((), 3, "must have one to three axes for random features, got \\[\\]"),
        ((8, 8, 8, 8), 3, "one to three axes"),
        ((7,), 3, "must be >= 8 for 3 levels of random features, got \\[7\\]"),
        ((16, 3), 2, "must be >= 4 for 2 levels of random features, got \\[16, 3\\]"),
    ],
)
def test_impossible_sizes(size, depth, message):
    with pytest.raises(ValueError, match=message):
        RandomFeatures(1, size, depth=depth)

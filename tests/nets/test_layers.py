import math

import pytest
import torch
from torch.testing import assert_close

from src.nets.layers import Attention, FourierFeatures, Patches, zero_init

pytestmark = pytest.mark.strength(1)


class TestFourierFeatures:
    x = torch.linspace(-2, 2, 6).view(3, 2)

    def test_equal_their_formula(self):
        torch.manual_seed(0)
        features = FourierFeatures(2, 5, 4.0)
        by_hand = [
            [*row, *(math.cos(v) for v in angles), *(math.sin(v) for v in angles)]
            for row, angles in zip(self.x.tolist(), (self.x @ features.projection).tolist(), strict=True)
        ]
        assert features.out_features == 12
        assert_close(features(self.x), torch.tensor(by_hand), rtol=0, atol=1e-5)

    def test_none_leave_the_input(self):
        assert torch.equal(FourierFeatures(2, 0, 4.0)(self.x), self.x)

    def test_have_the_kernel_of_a_gaussian(self):
        """The mean of cos(w (x - y)) is exp(-s^2 |x - y|^2 / 2), so that the scale is that of the details."""
        torch.manual_seed(0)
        n, scale = 200_000, 0.7
        waves = FourierFeatures(2, n, scale)(self.x)[:, 2:]
        expected = torch.exp(-(scale**2) * torch.cdist(self.x, self.x).square() / 2)
        assert_close(waves @ waves.T / n, expected, rtol=0, atol=5 / n**0.5)

    def test_are_taken_in_single_precision_and_are_not_trained(self):
        features = FourierFeatures(2, 50, 30.0)
        with torch.autocast("cpu", torch.bfloat16):
            assert_close(features(self.x), features(self.x.double()).float(), rtol=0, atol=1e-4)
        assert not list(features.parameters()) and "projection" in features.state_dict()


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("data", [(1, 8), (3, 16), (1, 8, 8), (3, 4, 12), (2, 16, 8)])
class TestPatches:
    def test_unpatchify_inverts_patchify(self, size, data):
        x = torch.arange(2 * math.prod(data)).float().view(2, *data)
        patches = Patches(size)
        assert torch.equal(patches.unpatchify(patches.patchify(x)), x)

    def test_patchify_gathers_neighbors(self, size, data):
        """Channel c p^d + offset at a position holds channel c at p times the position, plus the offset."""
        channels, *sides = data
        x = torch.arange(2 * math.prod(data)).float().view(2, *data)
        patches = Patches(size).patchify(x)
        assert patches.shape == (2, channels * size ** len(sides), *(s // size for s in sides))
        for c in range(channels):
            if len(sides) == 1:
                for i in range(size):
                    assert torch.equal(patches[:, c * size + i], x[:, c, i::size])
            else:
                for i in range(size):
                    for j in range(size):
                        assert torch.equal(patches[:, (c * size + i) * size + j], x[:, c, i::size, j::size])


def naive_attention(layer, x):
    """Softmax over all positions, one sample, head and query at a time."""
    result = torch.zeros_like(x.flatten(2))
    tokens = layer.norm(x).flatten(2).transpose(1, 2)
    width = x.shape[1] // layer.num_heads
    for b, sample in enumerate(tokens):
        q, k, v = (sample @ layer.qkv.weight.T + layer.qkv.bias).chunk(3, dim=1)
        for h in range(layer.num_heads):
            at = slice(h * width, (h + 1) * width)
            for i in range(len(sample)):
                scores = torch.exp(k[:, at] @ q[i, at] / math.sqrt(width))
                result[b, at, i] = (scores / scores.sum()) @ v[:, at]
    mixed = layer.out.weight @ result + layer.out.bias[:, None]
    return x + mixed.view_as(x)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("size", [(6,), (3, 3), (2, 4), (1,)])
class TestAttention:
    def layer(self, heads):
        torch.manual_seed(0)
        layer = Attention(8, heads, num_groups=2).double()
        torch.nn.init.normal_(layer.out.weight)
        torch.nn.init.normal_(layer.out.bias)
        return layer

    @torch.no_grad()
    def test_equals_a_naive_one(self, heads, size, randn):
        layer, x = self.layer(heads), randn(2, 8, *size)
        assert_close(layer(x), naive_attention(layer, x), rtol=0, atol=1e-10)

    @torch.no_grad()
    def test_does_not_know_positions(self, heads, size, randn):
        layer, x = self.layer(heads), randn(2, 8, *size)
        order = torch.randperm(math.prod(size), generator=torch.Generator().manual_seed(0))
        shuffled = layer(x.flatten(2)[..., order].view_as(x))
        assert_close(shuffled, layer(x).flatten(2)[..., order].view_as(x), rtol=0, atol=1e-10)

    def test_starts_as_the_identity(self, heads, size, randn):
        x = randn(2, 8, *size).float()
        assert torch.equal(Attention(8, heads, num_groups=2)(x), x)


def test_attention_refuses_heads_that_do_not_divide():
    with pytest.raises(ValueError, match=r"net.num_heads must divide the 10 channels of attention, got 4"):
        Attention(10, 4, num_groups=2)


def test_zero_init():
    layer = zero_init(torch.nn.Conv1d(3, 4, 3))
    assert not any(p.any() for p in layer.parameters())

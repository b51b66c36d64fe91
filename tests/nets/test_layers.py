import math
from itertools import product

import pytest
import torch
from torch.testing import assert_close

from src.nets.layers import Attention, Conv3d, CrossAttention, FourierFeatures, Patches, TokenAttention, zero_init

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
@pytest.mark.parametrize("data", [(1, 8), (3, 16), (1, 8, 8), (3, 4, 12), (2, 16, 8), (2, 4, 8, 12)])
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
            for k, offsets in enumerate(product(range(size), repeat=len(sides))):
                there = (slice(None), c, *(slice(i, None, size) for i in offsets))
                assert torch.equal(patches[:, c * size ** len(sides) + k], x[there])


@pytest.mark.parametrize("size", [(2, 2, 2), (2, 4, 3), (4, 2, 2), (1, 2, 2)])
def test_gradients_of_volumes_in_bf16(size):
    """Those of torch.nn.Conv3d are off by their own size, or infinite, at a depth of 2."""
    torch.manual_seed(0)
    conv, x = Conv3d(16, 16, 3, padding=1), torch.randn(4, 16, *size)
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            result = conv(x)
        assert_close(
            result.float(), torch.nn.functional.conv3d(x, conv.weight, conv.bias, padding=1), rtol=0, atol=0.02
        )
        (result.float() ** 2).sum().backward()
        gradients.append(conv.weight.grad)
        conv.weight.grad = None
    exact, low = gradients
    assert (low - exact).norm() < 0.02 * exact.norm()


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


class TestTokenAttention:
    width, token_width, heads = 8, 6, 2

    @pytest.fixture
    def layer(self):
        torch.manual_seed(0)
        layer = TokenAttention(self.width, self.token_width, self.heads).double()
        for p in layer.parameters():
            torch.nn.init.normal_(p, std=0.5)
        return layer

    @pytest.fixture
    def inputs(self):
        g = torch.Generator().manual_seed(1)
        h, tokens = (torch.randn(3, *s, generator=g, dtype=torch.float64) for s in ((5, 8), (4, 6)))
        return h, tokens, torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 1, 0]]) > 0

    def test_equals_that_of_torch(self, layer, inputs):
        theirs = torch.nn.MultiheadAttention(
            self.width, self.heads, kdim=self.token_width, vdim=self.token_width, batch_first=True
        ).double()
        k_weight, v_weight = layer.kv.weight.chunk(2)
        weights = {"q_proj_weight": layer.q.weight, "k_proj_weight": k_weight, "v_proj_weight": v_weight}
        weights["in_proj_bias"] = torch.cat([layer.q.bias, layer.kv.bias])
        theirs.load_state_dict(weights | {f"out_proj.{key}": p for key, p in layer.out.named_parameters()})
        h, tokens, mask = inputs
        assert_close(layer(h, tokens, mask), theirs(h, tokens, tokens, key_padding_mask=~mask)[0], rtol=0, atol=1e-12)

    def test_what_the_mask_leaves_out_changes_nothing(self, layer, inputs):
        h, tokens, mask = inputs
        noise = torch.where(mask[..., None], tokens, 1e3)
        assert torch.equal(layer(h, noise, mask), layer(h, tokens, mask))
        one = tokens.clone().requires_grad_()
        layer(h, one, mask).sum().backward()
        assert not one.grad[~mask].any() and one.grad[mask].any(1).all()

    def test_a_single_token_is_given_to_all(self, layer, inputs):
        h, tokens, _ = inputs
        value = layer.kv(tokens[:, :1]).chunk(2, 2)[1]
        assert_close(layer(h, tokens[:, :1], torch.ones(3, 1) > 0), layer.out(value).expand(3, 5, 8))

    @pytest.mark.parametrize("size", [(5,), (2, 3)])
    def test_in_a_picture_it_is_residual(self, size):
        layer = CrossAttention(8, 6, 2, 4)
        x, tokens, mask = torch.randn(2, 8, *size), torch.randn(2, 3, 6), torch.ones(2, 3) > 0
        assert torch.equal(layer(x, tokens, mask), x)
        torch.nn.init.normal_(layer.attention.out.weight)
        moved = layer(x, tokens, mask)
        positions = layer.norm(x).flatten(2).transpose(1, 2)
        assert_close(moved, x + layer.attention(positions, tokens, mask).transpose(1, 2).view_as(x))

    def test_heads_must_divide_the_width(self):
        with pytest.raises(ValueError, match=r"net\.num_heads must divide the 8 channels of attention, got 3"):
            TokenAttention(8, 6, 3)

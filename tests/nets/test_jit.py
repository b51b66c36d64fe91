import pytest
import torch
from torch.testing import assert_close

from src.nets.jit import BASE, JiT, grid_angles, rotate_pairs
from tests.nets.networks import inputs, randomize_zeros


@torch.no_grad()
def test_blocks_of_a_jit_start_as_the_identity(data, randn):
    torch.manual_seed(0)
    net = JiT(*data, width=16, depth=3, num_heads=2, patch_size=2)
    tokens = net.rotation.shape[1]
    h, embedding = randn(2, tokens, 16).float(), randn(2, 16).float()
    for block in net.blocks:
        assert torch.equal(block(h, embedding, net.rotation), h)


def naive_block(block, h, embedding, angles):
    """Equation by equation, from the weights, one head and one pair of channels at a time."""

    def dense(layer, x):
        return x @ layer.weight.T + layer.bias

    def norm(x, weight=1.0):
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    def turned(x):
        pairs = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([pairs.real, pairs.imag], -1)

    def attention(x):
        heads = []
        for q, k, v in zip(
            *(part.chunk(block.num_heads, -1) for part in dense(block.qkv, x).chunk(3, -1)), strict=True
        ):
            q, k = turned(norm(q, block.q_scale)), turned(norm(k, block.k_scale))
            heads.append((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v)
        return dense(block.out, torch.cat(heads, -1))

    def mlp(x):
        gate, value = dense(block.mlp.gate_and_value, x).chunk(2, -1)
        return dense(block.mlp.out, gate * gate.sigmoid() * value)

    scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = dense(block.modulation, embedding)[:, None].chunk(6, -1)
    h = h + gate_1 * attention(norm(h) * (1 + scale_1) + shift_1)
    return h + gate_2 * mlp(norm(h) * (1 + scale_2) + shift_2)


@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_a_block_of_a_jit_equals_a_naive_one(heads, randn):
    torch.manual_seed(0)
    net = randomize_zeros(JiT(1, (20,), width=16, num_heads=heads, context_tokens=0))
    block, h, embedding = net.blocks[0].double(), randn(3, 5, 16), randn(3, 16)
    for scale in (block.q_scale, block.k_scale):
        scale.copy_(randn(16 // heads))
    angles = grid_angles((5,), 16 // heads).double()
    rotation = torch.stack([angles.cos(), angles.sin()])
    assert_close(block(h, embedding, rotation), naive_block(block, h, embedding, angles), rtol=0, atol=1e-10)


def test_rotated_products_depend_on_the_distance(randn):
    """Along each axis; pairs that the axes cannot share equally stay as they are."""
    angles = grid_angles((4, 6), 12).double()
    q, k = (rotate_pairs(randn(12).expand(1, 1, 24, 12), torch.stack([angles.cos(), angles.sin()])) for _ in range(2))
    products = (q @ k.mT).view(4, 6, 4, 6)
    assert_close(products[0, 1, 2, 4], products[1, 2, 3, 5], rtol=0, atol=1e-6)
    assert_close(products[3, 0, 1, 0], products[2, 5, 0, 5], rtol=0, atol=1e-6)
    assert abs(products[0, 1, 2, 4] - products[0, 1, 2, 3]) > 1e-3
    assert_close(grid_angles((5,), 4), torch.outer(torch.arange(5.0), torch.tensor([1.0, BASE**-0.5])), rtol=0, atol=0)
    left_over = grid_angles((2, 3, 4), 10)
    assert left_over.shape == (24, 5) and not left_over[:, 3:].any() and left_over[:, :3].any(0).all()


@torch.no_grad()
def test_a_jit_knows_positions_and_its_context(data, randn):
    """The same patch in another place has another result; the embedding also reaches it by the tokens in context."""
    (channels, size), (x, c_noise) = data, inputs(*data, randn)
    torch.manual_seed(0)
    net = randomize_zeros(JiT(channels, size, width=16, depth=2, num_heads=2, patch_size=2, num_classes=3)).double()
    one = randn(4, channels, *size)
    for axis in range(len(size)):
        moved = net(one.roll(2, axis + 2), c_noise).roll(-2, axis + 2)
        assert (moved - net(one, c_noise)).abs().max() > 1e-6
    for block in net.blocks:
        block.modulation.weight.zero_()
    net.modulation.weight.zero_()
    results = [net(x, c_noise, torch.full((4,), k)) for k in (0, 1)]
    assert ((results[0] - results[1]).flatten(1).abs().amax(1) > 1e-9).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 12, "num_heads": 4}, "must be even, got 12 / 4"),
        ({"width": 16, "num_heads": 3}, "net.num_heads must divide"),
        ({"depth": 2, "context_start": 2}, "net.context_start must be < net.depth"),
        ({"patch_size": 3}, "a JiT with net.patch_size=3"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        JiT(1, (16,), **options)

import math
from itertools import product

import pytest
import torch
from torch.testing import assert_close

from src.nets.dit import DiT, sin_cos
from tests.nets.networks import inputs, randomize_zeros


@torch.no_grad()
def test_blocks_of_a_dit_start_as_the_identity(data, randn):
    """adaLN-zero: every gate is closed, whatever the noise level."""
    torch.manual_seed(0)
    net, h = DiT(*data, width=16, depth=3, num_heads=2), randn(2, 5, 16).float()
    for embedding in randn(3, 2, 16).float():
        for block in net.blocks:
            assert torch.equal(block(h, embedding), h)
        assert_close(net.norm(h, embedding), torch.nn.functional.layer_norm(h, (16,)), rtol=0, atol=1e-6)


def naive_block(block, h, embedding):
    """Equation by equation, from the weights."""

    def dense(layer, x):
        return x @ layer.weight.T + layer.bias

    def norm(adaptive, x):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        scale, shift = dense(adaptive.modulation, embedding).chunk(2, -1)
        return x * (1 + scale[:, None]) + shift[:, None]

    def attention(x):
        parts = [part.split(part.shape[-1] // block.num_heads, -1) for part in dense(block.qkv, x).chunk(3, -1)]
        heads = [(q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v for q, k, v in zip(*parts, strict=True)]
        return dense(block.out, torch.cat(heads, -1))

    gate_1, gate_2 = dense(block.gates, embedding)[:, None].chunk(2, -1)
    h = h + gate_1 * attention(norm(block.norm_1, h))
    hidden = torch.nn.functional.gelu(dense(block.mlp[0], norm(block.norm_2, h)), approximate="tanh")
    return h + gate_2 * dense(block.mlp[3], hidden)


@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_a_block_of_a_dit_equals_a_naive_one(heads, randn):
    torch.manual_seed(0)
    block, h, embedding = (
        randomize_zeros(DiT(1, (8,), width=16, num_heads=heads)).blocks[0].double(),
        randn(3, 5, 16),
        randn(3, 16),
    )
    assert_close(block(h, embedding), naive_block(block, h, embedding), rtol=0, atol=1e-10)


def test_positions_of_a_dit():
    """One axis: that of the original transformer. Two: the row's beside the column's."""
    rows, columns = sin_cos((3,), 8), sin_cos((4,), 8)
    expected = [[math.cos(n * 1e4 ** (-i / 4)) for i in range(4)] for n in range(3)]
    assert_close(rows[:, :4], torch.tensor(expected), rtol=0, atol=1e-6)
    both = sin_cos((3, 4), 16).view(3, 4, 16)
    for i in range(3):
        for j in range(4):
            assert torch.equal(both[i, j], torch.cat([rows[i], columns[j]]))
    volume, wide, narrow = sin_cos((2, 3, 4), 14).view(2, 3, 4, 14), sin_cos((4,), 6), sin_cos((4,), 4)
    expected = [torch.cat([wide[i], narrow[j], narrow[k]]) for i, j, k in product(range(2), range(3), range(4))]
    assert torch.equal(volume.flatten(0, 2), torch.stack(expected)), "the first axis has the channels left over"


@torch.no_grad()
def test_a_dit_knows_positions(data, randn):
    """The same patch in another place has another result."""
    (channels, size), (_, c_noise) = data, inputs(*data, randn)
    net = randomize_zeros(DiT(channels, size, width=16, depth=1, num_heads=2, patch_size=2)).double()
    result = net.patches.patchify(net(torch.ones(4, channels, *size, dtype=torch.float64), c_noise)).flatten(2)
    distances = torch.cdist(result.mT, result.mT) + torch.eye(result.shape[2])
    assert distances.min() > 1e-6

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from src.diffusion.conditions.text import encode_text
from src.nets.text_encoders import BEGIN, ByteEncoder

WIDTH, LENGTH, EMBED = 8, 12, 6
X = torch.zeros(3, 1, 4)
TEXT = encode_text(["a bold 7", "", "é"], LENGTH)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return ByteEncoder(LENGTH, EMBED, WIDTH, depth=2, num_heads=2).double()


def test_equals_the_transformer_of_torch(encoder):
    layers = []
    for block in encoder.blocks:
        layer = nn.TransformerEncoderLayer(
            WIDTH, 2, 4 * WIDTH, 0.0, partial(F.gelu, approximate="tanh"), batch_first=True, norm_first=True
        ).double()
        names = {"norm1": block.norm_1, "norm2": block.norm_2, "linear1": block.mlp[0], "linear2": block.mlp[2]}
        names |= {"self_attn.out_proj": block.out}
        state = {f"{name}.{key}": p for name, part in names.items() for key, p in part.state_dict().items()}
        state |= {"self_attn.in_proj_weight": block.qkv.weight, "self_attn.in_proj_bias": block.qkv.bias}
        layer.load_state_dict(state)
        layers.append(layer.train())  # without dropout, but not by a fused kernel
    ids = torch.cat([torch.full((3, 1), BEGIN), TEXT], 1)
    h = encoder.bytes(ids.clamp(min=0)) + encoder.positions
    for layer in layers:
        h = layer(h, src_key_padding_mask=ids < 0)
    h, found = encoder.norm(h), encoder(TEXT, X)
    assert torch.equal(found.mask, ids >= 0) and found.channels is None
    assert_close(found.tokens[found.mask], h[found.mask], rtol=0, atol=1e-12)
    assert_close(found.embedding, encoder.summary(h[:, 0]), rtol=0, atol=1e-12)


def test_padding_changes_nothing(encoder):
    longer = ByteEncoder(LENGTH + 9, EMBED, WIDTH, depth=2, num_heads=2).double()
    longer.load_state_dict(encoder.state_dict())
    found, padded = encoder(TEXT, X), longer(F.pad(TEXT, (0, 9), value=-1), X)
    assert padded.mask[:, LENGTH + 1 :].any() == 0
    assert_close(padded.tokens[padded.mask], found.tokens[found.mask], rtol=0, atol=1e-12)
    assert_close(padded.embedding, found.embedding, rtol=0, atol=1e-12)


def test_an_empty_text_is_one_token(encoder):
    found = encoder(TEXT, X)
    assert found.mask.sum(1).tolist() == [9, 1, 3]


def test_the_order_of_bytes_counts(encoder):
    one, two = encoder(encode_text(["ab", "ba"], LENGTH), X[:2]).embedding
    assert (one - two).abs().max() > 1e-3


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"net\.num_heads must divide the 8 channels"):
        ByteEncoder(LENGTH, EMBED, 8, num_heads=3)

"""Networks that are told texts: by cross-attention where they have it, and by an embedding."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from src.diffusion.conditions import Encoded, Encoder, Text
from src.diffusion.conditions.text import encode_text
from src.nets.layers import CrossAttention, TokenAttention
from src.nets.text_encoders import ByteEncoder
from tests.nets.networks import NETS, SIGNALS_ONLY, inputs, randomize_zeros

pytestmark = pytest.mark.strength(1)
LENGTH = 8
TEXT = encode_text(["a 7", "", "bold", "thin"], LENGTH)
MAKERS = {"text": partial(ByteEncoder, LENGTH, width=8, depth=1, num_heads=2)}
ATTENTIVE = [name for name in NETS if name.startswith(("unet", "dit"))]


def build(name, channels, size, **more):
    if name in SIGNALS_ONLY and len(size) > 1:
        pytest.skip("reads signals only")
    torch.manual_seed(0)
    return NETS[name](channels, size, encoders=MAKERS, **more)


def attentions(net):
    return [part for part in net.modules() if isinstance(part, TokenAttention)]


@pytest.mark.parametrize("name", NETS)
def test_a_text_changes_the_result_and_reaches_every_parameter(name, data, randn):
    x, c_noise = inputs(*data, randn)
    net = randomize_zeros(build(name, *data)).double()
    result = net(x, c_noise, TEXT)
    assert result.shape == x.shape and bool(attentions(net)) == (name in ATTENTIVE)
    other = net(x, c_noise, TEXT.roll(1, 0))
    assert ((result - other).flatten(1).abs().amax(1) > 1e-6).all()
    (result * randn(*x.shape)).sum().backward()
    assert not [key for key, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-12]


@torch.no_grad()
@pytest.mark.parametrize("name", ATTENTIVE)
def test_words_are_attended_to(name, data, randn):
    """Also without what the embedding says of the text."""
    x, c_noise = inputs(*data, randn)
    net = randomize_zeros(build(name, *data)).double()
    net.encoders["text"].summary.weight.zero_()
    assert ((net(x, c_noise, TEXT) - net(x, c_noise, TEXT.roll(1, 0))).flatten(1).abs().amax(1) > 1e-6).all()


@torch.no_grad()
@pytest.mark.parametrize("name", ["unet", "dit", "cnn"])
def test_padding_changes_nothing(name, randn):
    x, c_noise = inputs(1, (16,), randn)
    net, longer = (build(name, 1, (16,)).double() for _ in range(2))
    longer.encoders["text"] = ByteEncoder(LENGTH + 5, net.encoders["text"].summary.out_features, 8, 1, 2).double()
    randomize_zeros(net)
    longer.load_state_dict(net.state_dict())
    assert_close(longer(x, c_noise, F.pad(TEXT, (0, 5), value=-1)), net(x, c_noise, TEXT), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ATTENTIVE)
def test_checkpointing_changes_nothing(name, randn):
    x, c_noise = inputs(1, (8, 8), randn)
    gradients = []
    for checkpoint in (False, True):
        net = randomize_zeros(build(name, 1, (8, 8), checkpoint=checkpoint)).double()
        net(x, c_noise, TEXT).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert torch.equal(*gradients)


@pytest.mark.parametrize(("levels", "count"), [(None, 4), ((), 1), ((0,), 4), ((0, 1), 7)])
def test_levels_with_cross_attention(levels, count):
    """A block on the way down and two up, and the one between the middle blocks."""
    net = build("unet", 1, (8, 8), cross_attention_levels=levels)
    assert sum(isinstance(part, CrossAttention) for part in net.modules()) == count


class TokensAlone(Encoder):
    token_width = 8

    def forward(self, cond, x):
        return Encoded(tokens=torch.ones(len(x), 2, 8))


def test_a_net_without_cross_attention_needs_an_embedding(randn):
    net = NETS["cnn"](1, (8,), encoders={"text": lambda dim: TokensAlone()})
    with pytest.raises(ValueError, match=r"CNN has no cross-attention, which this condition needs: net=unet"):
        net(torch.zeros(2, 1, 8), torch.ones(2), TEXT[:2])


def test_the_condition_makes_the_encoder():
    text = Text(LENGTH, partial(ByteEncoder, width=8, depth=1, num_heads=2))
    net = NETS["unet"](1, (8,), encoders=text.encoders)
    assert isinstance(net.encoders["text"], ByteEncoder) and net.token_width == 8
    assert torch.equal(text.null(2), encode_text(["", ""], LENGTH))

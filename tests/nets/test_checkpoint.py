"""Activation checkpointing changes the memory and the time of a step, not its numbers."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from tests.nets.networks import NETS, SIGNALS_ONLY, inputs, randomize_zeros

pytestmark = pytest.mark.strength(1)
SIZE = (8, 16)


def make(name, checkpoint, size):
    """A net in training mode with dropout wherever it has some."""
    torch.manual_seed(0)
    net = randomize_zeros(NETS[name](3, size, checkpoint=checkpoint)).train()
    for part in net.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.5
    return net


def gradients(net, x, c_noise, autocast=False):
    """The output, and the gradients of the input and of all parameters."""
    x = x.float().requires_grad_()
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = net(x, c_noise)
    net.zero_grad()
    output.float().square().mean().backward()
    return [output.detach(), x.grad, *(p.grad for p in net.parameters())]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_same_numbers(name, autocast, randn):
    """Bit for bit, with dropout and under autocast; the names of the weights are the same too."""
    size = SIZE[:1] if name in SIGNALS_ONLY else SIZE
    batch = inputs(3, size, randn)
    plain, again = (make(name, checkpoint, size) for checkpoint in (False, True))
    assert list(plain.state_dict()) == list(again.state_dict())
    assert all(map(torch.equal, gradients(again, *batch, autocast), gradients(plain, *batch, autocast)))


def saved_bytes(net, x, c_noise):
    """Bytes that the forward pass stores for the backward pass, without weights."""
    kept, weights = {}, {p.data_ptr() for p in net.parameters()}

    def pack(tensor):
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        net(x.float(), c_noise)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("name", ["unet attention", "unet adding", "cnn", "rnn", "dit"])
def test_stores_less_and_computes_again(name, randn):
    size = SIZE[:1] if name in SIGNALS_ONLY else SIZE
    batch = inputs(3, size, randn)
    stored, computed = [], []
    for checkpoint in (False, True):
        net = make(name, checkpoint, size)
        stored.append(saved_bytes(net, *batch))
        with FlopCounterMode(display=False) as flops:
            gradients(net, *batch)
        computed.append(flops.get_total_flops())
    assert stored[1] < 0.6 * stored[0]
    assert computed[0] < computed[1] < 1.4 * computed[0]


def test_nothing_without_gradients(randn, monkeypatch):
    """In sampling nothing is stored anyway."""
    monkeypatch.setattr("src.nets.base.checkpoint", None)
    with torch.no_grad():
        make("mlp", True, SIZE)(*(value.float() for value in inputs(3, SIZE, randn)))

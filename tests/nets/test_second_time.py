"""Networks of flow maps: the second time, and derivatives in forward mode through every network."""

from contextlib import nullcontext

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from src.diffusion.flow_map import FlowMap
from src.diffusion.forward_mode import FixedWeights
from src.diffusion.lagrangian import Lagrangian
from src.diffusion.parameterizations import Flow
from src.diffusion.schedules import FlowSchedule
from src.diffusion.weightings import flow_weighting
from src.nets.cnn import CNN
from src.nets.conv_autoencoder import ConvAutoencoder
from src.nets.dit import DiT
from src.nets.jit import JiT
from src.nets.mlp import MLP
from src.nets.rnn import RNN
from src.nets.time_embeddings import FourierEmbedding
from src.nets.unet import UNet

NETS = {
    "mlp": (MLP, (2, 4), {"width": 16, "depth": 1}),
    "cnn": (CNN, (2, 8), {"width": 8, "depth": 2, "embed_dim": 8}),
    "rnn": (RNN, (2, 8), {"width": 8, "depth": 1, "embed_dim": 8}),
    "unet": (UNet, (1, 8, 8), {"width": 8, "attention_levels": [0], "embed_dim": 8}),
    "dit": (DiT, (1, 8, 8), {"width": 16, "depth": 2, "num_heads": 2}),
    "jit": (JiT, (1, 8, 8), {"width": 16, "depth": 2, "num_heads": 2, "patch_size": 2}),
    "conv_autoencoder": (ConvAutoencoder, (1, 8, 8), {"width": 4, "bottleneck": 8, "embed_dim": 8}),
}
T, S = torch.tensor([0.8, 0.5], dtype=torch.float64), torch.tensor([0.1, 0.5], dtype=torch.float64)


def flow_map(name, randn, dtype=torch.float64):
    """With random weights, none of them zero as new ones are."""
    make, shape, settings = NETS[name]
    torch.manual_seed(0)
    net = make(shape[0], shape[1:], second_time=True, time_embedding=FourierEmbedding, **settings).to(dtype)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return FlowMap(net, FlowSchedule(), Flow()).eval(), randn(2, *shape).to(dtype)


@pytest.mark.parametrize("name", NETS)
def test_derivatives_in_forward_mode(name, randn):
    """As central differences; the embedding of time is in float32, which limits them."""
    model, x_t = flow_map(name, randn)
    speed, h = randn(*x_t.shape), 1e-3
    _, rate = model.with_rate(x_t, T, S, None, speed)
    after, before = (model(x_t + step * speed, T + step, s=S).x_0 for step in (h, -h))
    assert_close(rate, (after - before) / (2 * h), atol=2e-2 * rate.abs().max().item(), rtol=0)
    _, rate = model.with_rate(x_t, T, S)
    after, before = (model(x_t, T, s=S + step).x_0 for step in (h, -h))
    assert rate.abs().max() > 1e-4
    assert_close(rate, (after - before) / (2 * h), atol=2e-2 * rate.abs().max().item(), rtol=0)


@pytest.mark.parametrize("name", NETS)
def test_under_autocast_with_a_gradient_through_the_derivative(name, randn):
    """The derivative is taken in full precision."""
    model, x_t = flow_map(name, randn, torch.float32)
    exact = model.with_rate(x_t, T, S, None, x_t)[1]
    with torch.autocast("cpu", torch.bfloat16):
        x_0, rate = model.with_rate(x_t, T, S, None, x_t)
        (x_0 + rate).square().mean().backward()
    assert x_0.dtype == rate.dtype == torch.float32
    assert_close(rate, exact)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", NETS)
def test_the_gradient_of_a_derivative(name, randn):
    """As a central difference along a direction of all weights; torch's own layer norm and softmax fail here."""
    model, x_t = flow_map(name, randn)
    weights = list(model.parameters())
    direction = [torch.randn(w.shape, dtype=w.dtype) for w in weights]

    def loss():
        return (model.with_rate(x_t, T, S, None, 0.5 * x_t)[1] + model.with_rate(x_t, T, S)[1]).square().mean()

    loss().backward()
    found = sum((w.grad * d).sum() for w, d in zip(weights, direction, strict=True))
    ends = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            for w, d in zip(weights, direction, strict=True):
                w.add_(d, alpha=step)
            ends.append(loss())
    assert_close(found, (ends[0] - ends[1]) / 2e-5, rtol=1e-4, atol=1e-6)


def test_a_new_second_time_changes_nothing(randn):
    """A flow map begins as the denoiser whose weights it starts from, wherever it goes."""
    make, shape, settings = NETS["unet"]
    net, x = make(shape[0], shape[1:], second_time=True, **settings), randn(2, *shape).float()
    assert torch.equal(net(x, torch.tensor([[800.0, 100.0]] * 2)), net(x, torch.tensor([[800.0, 800.0]] * 2)))
    plain = make(shape[0], shape[1:], **settings)
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if "condition_embedding.step." not in k})
    assert torch.equal(plain(x, torch.tensor([800.0] * 2)), net(x, torch.tensor([[800.0, 100.0]] * 2)))


@pytest.mark.parametrize("name", NETS)
def test_no_product_is_taken_with_derivatives_of_weights(name, randn, monkeypatch):
    """A value and its derivative are two evaluations, where torch alone takes three, and both are the same bits."""
    model, x_t = flow_map(name, randn, torch.float32)
    speed, s = x_t.flip(-1), S / 2

    def cost_of(work):
        with FlopCounterMode(display=False) as flops:
            return work(), flops.get_total_flops()

    _, one = cost_of(lambda: model(x_t, T, s=s))
    ours, two = cost_of(lambda: model.with_rate(x_t, T, s, None, speed))
    monkeypatch.setattr("src.diffusion.flow_map.FixedWeights", nullcontext)
    theirs, three = cost_of(lambda: model.with_rate(x_t, T, s, None, speed))
    most = 2.7 if name == "rnn" else 2.2  # torch's recurrent cells are one operation; attention has two derivatives
    assert 1.9 * one < two < most * one < three
    assert all(map(torch.equal, ours, theirs))


def test_weights_that_change_with_time_have_their_part_in_the_derivative():
    """Those of a hypernetwork, and a bias given by name."""
    x, weight, bias = (torch.randn(*shape, dtype=torch.float64) for shape in ((3, 4), (5, 4), (5,)))
    for moved in ("x", "weight", "bias"):
        with forward_ad.dual_level():
            parts = {"x": x, "weight": weight, "bias": bias}
            rate = torch.ones_like(parts[moved])
            parts[moved] = forward_ad.make_dual(parts[moved], rate)
            y = F.linear(parts["x"], parts["weight"], parts["bias"])
            with FixedWeights():
                ours = F.linear(parts["x"], parts["weight"], bias=parts["bias"])
            assert all(map(torch.equal, forward_ad.unpack_dual(ours), forward_ad.unpack_dual(y)))


@pytest.mark.parametrize("name", NETS)
def test_activation_checkpointing(name, randn):
    """The gradient of the Lagrangian loss, through the derivative and by the input, is the same with it."""
    (flow, x_0), loss, gradients = flow_map(name, randn), Lagrangian(flow_weighting, off_diagonal=1.0), []
    for flow.net.checkpoint in (False, True):
        flow.zero_grad()
        loss(flow, x_0, T, torch.ones_like(x_0)).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in flow.parameters() if p.grad is not None]))
    assert_close(gradients[1], gradients[0])
    assert gradients[0].abs().max() > 0

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from src.diffusion.ema import EMA


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5), nn.BatchNorm1d(2)).double()


def walk(m, n):
    """Set the weights to something new n times, as an optimizer would; yield the step and the first weight."""
    g = torch.Generator().manual_seed(1)
    for step in range(1, n + 1):
        with torch.no_grad():
            for p in m.parameters():
                p.copy_(torch.randn(p.shape, generator=g, dtype=p.dtype))
        yield step, m[0].weight.detach().clone()


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_closed_form(decay):
    m = model()
    ema = EMA(m, decay, warmup=False)
    history = [m[0].weight.detach().clone()]
    for step, weights in walk(m, 12):
        ema.update(m, step)
        history.append(weights)
    expected = decay**12 * history[0] + sum((1 - decay) * decay ** (12 - i) * history[i] for i in range(1, 13))
    assert_close(ema.model[0].weight, expected, rtol=0, atol=1e-12, check_stride=False)


def test_warm_up():
    """d_n = min(d, (1 + n) / (10 + n)), so that the first weights are soon forgotten."""
    m = model()
    ema = EMA(m, 0.4)
    history = [m[0].weight.detach().clone()]
    for step, weights in walk(m, 12):
        ema.update(m, step)
        history.append(weights)
    decays = [2 / 11, 3 / 12, 4 / 13, 5 / 14] + [0.4] * 8
    assert [ema.decay_at(n) for n in range(1, 13)] == pytest.approx(decays, abs=1e-15)
    expected = history[0]
    for d, weight in zip(decays, history[1:], strict=True):
        expected = d * expected + (1 - d) * weight
    assert_close(ema.model[0].weight, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("warmup", [True, False])
def test_start(warmup):
    """The copy follows the weights exactly until then, and counts the warm-up from there."""
    m = model()
    ema = EMA(m, 0.9, start=3, warmup=warmup)
    history = [m[0].weight.detach().clone()]
    for step, weights in walk(m, 5):
        ema.update(m, step)
        history.append(weights)
        if step <= 3:
            assert torch.equal(ema.model[0].weight, history[-1])
    expected = history[3]
    for d, weight in zip([2 / 11, 3 / 12] if warmup else [0.9, 0.9], history[4:], strict=True):
        expected = d * expected + (1 - d) * weight
    assert_close(ema.model[0].weight, expected, rtol=0, atol=1e-12)


def test_follows_a_constant():
    m = model()
    ema = EMA(m, 0.999)
    for step in range(1, 50):
        ema.update(m, step)
    assert_close(ema.model.state_dict(), m.state_dict(), rtol=0, atol=1e-15)


def test_buffers_are_copied():
    m = model()
    ema = EMA(m, 0.9)
    m[2].running_mean += 5
    m[2].num_batches_tracked += 7
    ema.update(m, 1)
    assert torch.equal(ema.model[2].running_mean, m[2].running_mean)
    assert ema.model[2].num_batches_tracked == 7


def test_is_a_copy():
    m = model()
    ema = EMA(m, 0.9)
    before = ema.model[0].weight.clone()
    with torch.no_grad():
        m[0].weight += 1
    assert torch.equal(ema.model[0].weight, before)
    again = copy.deepcopy(ema)
    ema.update(m, 1)
    assert torch.equal(again.model[0].weight, before)
    assert not torch.equal(ema.model[0].weight, before)


def test_is_never_trained():
    m = model().train()
    ema = EMA(m, 0.9)
    nn.ModuleList([ema]).train()
    assert m.training
    assert not any(module.training for module in ema.modules())
    assert not any(p.requires_grad for p in ema.parameters())
    assert all(p.requires_grad for p in m.parameters())


def test_goes_through_a_checkpoint():
    m = model()
    ema = EMA(m, 0.9)
    for step, _ in walk(m, 3):
        ema.update(m, step)
    again = EMA(model(), 0.9)
    again.load_state_dict(ema.state_dict())
    ema.update(m, 4)
    again.update(m, 4)
    assert torch.equal(again.model[0].weight, ema.model[0].weight)


@pytest.mark.parametrize("decay", [1.0, -0.1, 2])
def test_refuses(decay):
    with pytest.raises(ValueError, match=r"ema.decay lies in \[0, 1\)"):
        EMA(model(), decay)

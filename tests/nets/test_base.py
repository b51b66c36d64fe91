"""What every network keeps to, and the embedding of noise level and condition that all of them share."""

import copy
import re

import pytest
import torch
from torch.testing import assert_close

from src.diffusion.beta_schedules import CosineSchedule
from src.diffusion.denoiser import Denoiser
from src.diffusion.parameterizations import V
from src.nets import CNN, MLP, RNN, ConvAutoencoder, DiT, FourierEmbedding, UNet
from src.nets.base import ConditionEmbedding, Net
from tests.nets.networks import NETS, SIGNALS_ONLY, SMALL, inputs, randomize_zeros

pytestmark = pytest.mark.strength(1)


@pytest.fixture(params=NETS)
def make(request):
    """Builds the network of this name for some data, with weights that are the same every time."""

    def build(channels, size, zeros=False, **more):
        if request.param in SIGNALS_ONLY and len(size) > 1:
            pytest.skip("reads signals only")
        torch.manual_seed(0)
        net = NETS[request.param](channels, size, **more)
        return net if zeros else randomize_zeros(net)

    return build


def cut(value, shape):
    """The first entries of a tensor, as many as the shape has."""
    return value[tuple(slice(n) for n in shape)]


@pytest.mark.parametrize("outputs", [1, 2])
def test_starts_at_zero(make, data, outputs, randn):
    x, c_noise = inputs(*data, randn)
    result = make(*data, zeros=True, out_channels=outputs * data[0])(x.float(), c_noise)
    assert torch.equal(result, torch.zeros(4, outputs * data[0], *data[1]))


@torch.no_grad()
@pytest.mark.parametrize("outputs", [1, 2, 3])
@pytest.mark.parametrize("number", [1, 2])
def test_tensors_side_by_side(make, data, number, outputs, randn):
    """With several inputs and outputs, each output depends on every input, and no two are the same."""
    (channels, size), (_, c_noise) = data, inputs(*data, randn)
    x = randn(4, number * channels, *size)
    net = make(channels, size, in_channels=number * channels, out_channels=outputs * channels).double()
    result = net(x, c_noise)
    assert result.shape == (4, outputs * channels, *size)
    for part in range(number):
        changed = x.clone()
        changed[:, part * channels : (part + 1) * channels] += 1
        assert ((net(changed, c_noise) - result).flatten(2).abs().amax(2) > 1e-6).all()
    parts = result.chunk(outputs, 1)
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(parts) for b in parts[:i])


@torch.no_grad()
def test_an_input_of_zeros_is_none(make, data, randn):
    """The weights of a network without the second input are those of the first, whatever patches do to channels."""
    x, c_noise = inputs(*data, randn)
    two = make(*data, in_channels=2 * data[0]).double()
    one = make(*data).double()
    state = {name: cut(two.state_dict()[name], value.shape) for name, value in one.state_dict().items()}
    one.load_state_dict(state)
    assert_close(two(torch.cat([x, 0 * x], 1), c_noise), one(x, c_noise), rtol=0, atol=1e-10)


def test_gradients_reach_every_parameter(make, data, randn):
    x, c_noise = inputs(*data, randn)
    net = make(*data, num_classes=3)
    weights = randn(4, data[0], *data[1]).float()
    (net(x.float(), c_noise, torch.tensor([-1, 0, 1, 2])) * weights).sum().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-12]
    assert not without


@torch.no_grad()
def test_every_output_depends_on_every_input(make, data, randn):
    """On some element of each channel, and on the noise level."""
    channels, size = data
    x, c_noise = inputs(channels, size, randn)
    net = make(channels, size).double()
    result = net(x, c_noise)
    for c in range(channels):
        changed = x.clone()
        changed[:, c] += 1
        assert ((net(changed, c_noise) - result).flatten(2).abs().amax(2) > 1e-6).all()
    assert ((net(x, c_noise + 30) - result).flatten(2).abs().amax(2) > 1e-6).all()


@torch.no_grad()
def test_labels(make, data, randn):
    x, c_noise = inputs(*data, randn)
    net = make(*data, num_classes=3).double()
    assert net.num_classes == 3
    none = net(x, c_noise)
    assert torch.equal(net(x, c_noise, torch.full((4,), -1)), none)
    results = [none] + [net(x, c_noise, torch.full((4,), label)) for label in range(3)]
    for i, a in enumerate(results):
        for b in results[:i]:
            assert ((a - b).flatten(1).abs().amax(1) > 1e-6).all()
    mixed = net(x, c_noise, torch.tensor([2, -1, 0, 1]))
    assert_close(mixed, torch.stack([results[k + 1][i] for i, k in enumerate([2, -1, 0, 1])]), rtol=0, atol=1e-10)


def test_unconditional_refuses_labels(make, data, randn):
    x, c_noise = inputs(*data, randn)
    with pytest.raises(ValueError, match="num_classes must be > 0"):
        make(*data)(x.float(), c_noise, torch.zeros(4, dtype=torch.int64))


@torch.no_grad()
def test_samples_do_not_mix(make, data, randn):
    x, c_noise = inputs(*data, randn)
    net = make(*data, num_classes=3).double()
    label = torch.tensor([0, 1, 2, -1])
    together = net(x, c_noise, label)
    alone = torch.cat([net(x[i : i + 1], c_noise[i : i + 1], label[i : i + 1]) for i in range(4)])
    assert_close(together, alone, rtol=0, atol=1e-10)


@torch.no_grad()
def test_dropout_acts_in_training_only(data, randn):
    x, c_noise = inputs(*data, randn)
    nets = [UNet(*data, **SMALL, dropout=0.5), CNN(*data, width=8, dropout=0.5), DiT(*data, width=8, dropout=0.5)]
    nets += [MLP(*data, width=16, dropout=0.5)] + ([RNN(*data, width=8, dropout=0.5)] if len(data[1]) == 1 else [])
    for net in nets:
        randomize_zeros(net).eval()
        assert torch.equal(net(x.float(), c_noise), net(x.float(), c_noise))
        net.train()
        assert not torch.equal(net(x.float(), c_noise), net(x.float(), c_noise))


@torch.no_grad()
def test_autocast_follows_single_precision(make, data, randn):
    x, c_noise = inputs(*data, randn)
    net = make(*data, num_classes=3)
    label = torch.tensor([0, 1, 2, -1])
    exact = net(x.float(), c_noise, label)
    with torch.autocast("cpu", torch.bfloat16):
        low = net(x.float(), c_noise, label).float()
    assert (low - exact).norm() / exact.norm() < 0.03


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@torch.no_grad()
def test_other_precisions(make, data, dtype, randn):
    """Converted as a whole, which Lightning's precision=64-true and bf16-true do; the times stay exact."""
    x, _ = inputs(*data, randn)
    t = torch.tensor([0.1, 0.2, 0.5, 0.9], dtype=torch.float64)
    denoiser = Denoiser(make(*data), CosineSchedule(), V())
    exact, low = denoiser(x.float(), t).x_0, copy.deepcopy(denoiser).to(dtype)(x.to(dtype), t).x_0
    assert low.dtype == dtype
    # In bf16 the frequencies of the embedding are rounded too, which turns the fastest angles.
    assert (low.float() - exact).norm() / exact.norm() < (1e-5 if dtype == torch.float64 else 0.2)


@torch.no_grad()
def test_copies_and_state_dicts(make, data, randn):
    x, c_noise = inputs(*data, randn)
    net = make(*data)
    other = make(*data, zeros=True)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x.float(), c_noise), net(x.float(), c_noise))
    assert torch.equal(copy.deepcopy(net)(x.float(), c_noise), net(x.float(), c_noise))


@pytest.mark.parametrize("size", [(), (8, 8, 8, 8)])
@pytest.mark.parametrize("net", [CNN, DiT, ConvAutoencoder, UNet])
def test_points_and_four_axes_are_refused(net, size):
    message = rf"data.size must have one to three axes for .*, got {re.escape(str(list(size)))}; use net=mlp"
    with pytest.raises(ValueError, match=message):
        net(1, size)


@pytest.mark.parametrize(
    ("net", "size", "options", "message"),
    [
        (
            CNN,
            (29,),
            {"patch_size": 2},
            r"multiple of 2 for .*, got \[29\]; use another net.patch_size, .* such as (28|30)$",
        ),
        (
            DiT,
            (28, 30),
            {"patch_size": 4},
            r"multiple of 4 for .*; use another net.patch_size, or a size such as 28x(28|32)$",
        ),
        (ConvAutoencoder, (28, 30), {}, r"multiple of 4 for .*; use net=mlp, or a size such as 28x(28|32)$"),
        (DiT, (8,), {"width": 10, "num_heads": 4}, r"net.num_heads must divide the 10 channels of attention, got 4"),
        (DiT, (8,), {"width": 9, "num_heads": 3}, r"net.width must be even and >= 2 for 1-dimensional data, got 9"),
        (
            DiT,
            (8, 8, 8),
            {"width": 4, "num_heads": 2},
            r"net.width must be even and >= 6 for 3-dimensional data, got 4",
        ),
        (RNN, (28, 28), {}, r"must have one axis for an RNN, got \[28, 28\]; use net=cnn or net=unet"),
        (RNN, (), {}, r"must have one axis for an RNN, got \[\]"),
        (RNN, (10,), {"patch_size": 4}, r"multiple of 4 for .*; use another net.patch_size, or a size such as (8|12)$"),
        (RNN, (8,), {"cell": torch.nn.Linear}, r"torch.nn.GRU, torch.nn.LSTM or torch.nn.RNN, got Linear"),
        (CNN, (8,), {"embed_dim": 7}, r"even, got 7; set net.embed_dim"),
        (MLP, (8,), {"embed_dim": 7}, r"even, got 7"),
    ],
)
def test_impossible_settings(net, size, options, message):
    with pytest.raises(ValueError, match=message):
        net(1, size, **options)


class TestConditionEmbedding:
    c_noise = torch.tensor([1.0, 500.0, 1000.0])

    def test_without_a_label_is_minus_one(self):
        embed = ConditionEmbedding(8, num_classes=3)
        assert torch.equal(embed(self.c_noise), embed(self.c_noise, torch.full((3,), -1)))

    def test_label_adds_its_row(self):
        embed = ConditionEmbedding(8, num_classes=3)
        difference = embed(self.c_noise, torch.tensor([0, 2, 1])) - embed.noise(self.c_noise)
        assert_close(difference, embed.label.weight[[1, 3, 2]], rtol=0, atol=1e-6)

    def test_takes_any_time_embedding(self):
        """Built with its own dimension."""
        embed = ConditionEmbedding(8, time_embedding=lambda dim: FourierEmbedding(dim, scale=0.5))
        fourier, *dense = embed.noise
        assert isinstance(fourier, FourierEmbedding) and fourier.frequencies.shape == (4,)
        by_hand = torch.nn.Sequential(*dense)(fourier(self.c_noise))
        assert torch.equal(embed(self.c_noise), by_hand)

    def test_unconditional_refuses_labels(self):
        with pytest.raises(ValueError, match="num_classes must be > 0"):
            ConditionEmbedding(8)(self.c_noise, torch.tensor([0, 1, 2]))

    @pytest.mark.parametrize("label", [3, -2])
    def test_refuses_labels_out_of_range(self, label):
        with pytest.raises(IndexError):
            ConditionEmbedding(8, num_classes=3)(self.c_noise, torch.full((3,), label))


def test_a_net_of_ones_own(randn):
    """A subclass defines `body` alone; the channels of x and of the result are those of the data unless given."""

    class Scale(Net):
        def __init__(self, channels, size, **options):
            super().__init__(channels, size, embed_dim=4, **options)
            self.gain = torch.nn.Linear(4, self.out_channels)

        def body(self, x, embedding):
            return x[:, :1] * self.gain(embedding)[:, :, None]

    net = Scale(3, (5,))
    assert (net.channels, net.size, net.in_channels, net.out_channels, net.num_classes) == (3, (5,), 3, 3, 0)
    net = Scale(3, (5,), num_classes=2, in_channels=6, out_channels=9)
    x, c_noise = randn(2, 6, 5).float(), torch.tensor([1.0, 900.0])
    result = net(x, c_noise, torch.tensor([0, -1]))
    embedding = torch.nn.functional.silu(net.condition_embedding(c_noise, torch.tensor([0, -1])))
    assert_close(result, x[:, :1] * net.gain(embedding)[:, :, None])
    with pytest.raises(NotImplementedError):
        Net(3, (5,), 4)(randn(2, 3, 5).float(), c_noise)

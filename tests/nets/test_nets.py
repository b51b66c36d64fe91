import copy
import math

import pytest
import torch
from torch.testing import assert_close

from src.diffusion.denoiser import Denoiser
from src.diffusion.discrete_schedules import cosine
from src.diffusion.parameterizations import V
from src.nets.cnn import CNN
from src.nets.conv_autoencoder import ConvAutoencoder
from src.nets.dit import DiT, sin_cos
from src.nets.mlp import MLP
from src.nets.rnn import RNN
from src.nets.time_embeddings import FourierEmbedding, LearnedEmbedding
from src.nets.unet import UNet

SMALL = {"width": 8, "num_groups": 4, "num_heads": 2}
DATA = {
    "signal": (1, (16,)),
    "3-channel signal": (3, (8,)),
    "image": (1, (8, 8)),
    "wide colour image": (3, (8, 16)),
}


def unet(**options):
    return lambda channels, size, **more: UNet(channels, size, **SMALL, **options, **more)


def small(net, **options):
    return lambda channels, size, **more: net(channels, size, width=8, embed_dim=16, **options, **more)


def dit(**options):
    return lambda channels, size, **more: DiT(channels, size, width=16, depth=2, num_heads=2, **options, **more)


NETS = {
    "unet": unet(),
    "unet patch": unet(patch_size=2),
    "unet attention": unet(attention_levels=(0, 1), num_blocks=2),
    "unet bare": unet(channel_mults=(1,), middle_attention=False),
    "unet deep": unet(channel_mults=(1, 2, 2), attention_levels=(2,)),
    "unet adding": unet(channel_mults=(1, 2), num_blocks=2, skip_mode="add"),
    "mlp": lambda channels, size, **more: MLP(channels, size, width=16, depth=2, **more),
    "mlp learned": lambda channels, size, **more: MLP(
        channels, size, width=16, depth=2, embed_dim=8, time_embedding=LearnedEmbedding, **more
    ),
    "cnn": small(CNN, depth=3, num_groups=4),
    "cnn fourier": small(CNN, depth=2, num_groups=4, patch_size=2, time_embedding=FourierEmbedding),
    "rnn": small(RNN, depth=2),
    "rnn lstm": small(RNN, depth=1, patch_size=2, cell=torch.nn.LSTM),
    "dit": dit(patch_size=2),
    "dit patch": dit(patch_size=4, mlp_ratio=1.5),
    "conv_autoencoder": small(ConvAutoencoder, bottleneck=16),
    "conv_autoencoder tanh": small(ConvAutoencoder, bottleneck=16, tanh_output=True),
}
SIGNALS_ONLY = ("rnn", "rnn lstm")


@pytest.fixture(params=NETS)
def make(request):
    """Builds the network of this name for some data, with weights that are the same every time."""

    def build(channels, size, zeros=False, **more):
        if request.param in SIGNALS_ONLY and len(size) > 1:
            pytest.skip("reads signals only")
        torch.manual_seed(0)
        net = NETS[request.param](channels, size, **more)
        return net if zeros else stirred(net)

    return build


@pytest.fixture(params=DATA)
def data(request):
    return DATA[request.param]


def stirred(net):
    """Replace the parameters that start as zero, with which a network is mute, by small noise."""
    for p in net.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    return net


def cut(value, shape):
    """The first entries of a tensor, as many as the shape has."""
    return value[tuple(slice(n) for n in shape)]


def inputs(channels, size, randn, batch=4):
    return randn(batch, channels, *size), torch.tensor([1.0, 250.0, 600.0, 1000.0])[:batch]


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


@torch.no_grad()
@pytest.mark.parametrize("number", [1, 2])
def test_points(number, randn):
    """(B, C): a sample without extent."""
    net, c_noise = (
        stirred(MLP(2, (), width=16, depth=2, in_channels=2 * number, out_channels=4)).double(),
        torch.arange(5.0),
    )
    x = randn(5, 2 * number)
    result = net(x, c_noise)
    flat = stirred(MLP(4, (), width=16, depth=2)).double()
    assert result.shape == (5, 4) and result.std(0).min() > 1e-3
    if number == 2:
        state = net.state_dict()
        for name in ("weight", "bias"):
            state[f"heads.0.{name}"] = torch.cat([state[f"heads.0.{name}"], state.pop(f"heads.1.{name}")])
        flat.load_state_dict(state)
        assert_close(flat(x, c_noise), result, rtol=0, atol=1e-12)


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
    with pytest.raises(ValueError, match=r"net\.num_classes must be > 0"):
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
        stirred(net).eval()
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
    denoiser = Denoiser(make(*data), cosine(), V())
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


@torch.no_grad()
def test_mlp_takes_any_number_of_axes(randn):
    net = stirred(MLP(2, (2, 3, 4), width=8, depth=1)).double()
    flat = stirred(MLP(1, (48,), width=8, depth=1)).double()
    flat.load_state_dict(net.state_dict())
    x, c_noise = randn(3, 2, 2, 3, 4), torch.tensor([1.0, 2.0, 3.0])
    assert_close(net(x, c_noise).flatten(), flat(x.view(3, 1, 48), c_noise).flatten())


@pytest.mark.parametrize(
    ("size", "options", "factor", "fitting"),
    [
        ((28, 28), {"channel_mults": (1, 2, 4, 8)}, 8, "32x32|24x24"),
        ((29,), {"channel_mults": (1, 2)}, 2, "28|30"),
        ((28, 30), {"channel_mults": (1, 2), "patch_size": 2}, 4, "28x32|28x28"),
        ((3,), {"channel_mults": (1, 2, 2, 2)}, 8, "8"),
    ],
)
def test_unet_refuses_sizes(size, options, factor, fitting):
    with pytest.raises(ValueError, match=rf"multiple of {factor} for .*a size such as ({fitting})$") as error:
        UNet(1, size, **SMALL, **options)
    suggestion = [int(side) for side in str(error.value).split()[-1].split("x")]
    UNet(1, suggestion, **SMALL, **options)


def test_added_skips_take_the_place_of_wider_blocks():
    x = torch.randn(2, 8, 4, 4)
    beside, added = (UNet(1, (8, 8), **SMALL, channel_mults=(1, 2), skip_mode=mode) for mode in ("concat", "add"))
    assert_close(beside.merge_skip(x, 2 * x), torch.cat([x, 2 * x], 1))
    assert_close(added.merge_skip(x, 2 * x), 3 / math.sqrt(2) * x)
    assert added.merge_skip(x, torch.randn(2, 16, 4, 4)).shape == (2, 24, 4, 4)
    # Of the four blocks up three find as many channels; the second of the lower level joins 16 and 8.
    inputs = [layer.block.conv_1.in_channels for net in (beside, added) for layer in net.up if hasattr(layer, "block")]
    assert inputs == [32, 24, 16, 16, 16, 24, 8, 8]


def test_unet_refuses_three_axes():
    with pytest.raises(ValueError, match="one or two"):
        UNet(1, (8, 8, 8), **SMALL)


def reach(net, at, size):
    """Whether each position of a signal, or image, moves the output at one position."""
    x = torch.zeros(1, 1, *size, dtype=torch.float64, requires_grad=True)
    output = stirred(net).double()(x, torch.tensor([500.0]))
    return torch.autograd.grad(output[(0, 0, *at)], x)[0][0, 0] != 0


@pytest.mark.parametrize("cell", [torch.nn.GRU, torch.nn.LSTM, torch.nn.RNN])
@pytest.mark.parametrize("at", [0, 7, 15])
def test_an_rnn_reads_in_both_directions(cell, at):
    """In one layer already: the output anywhere depends on the input everywhere."""
    assert reach(RNN(1, (16,), width=8, depth=1, patch_size=2, cell=cell), (at,), (16,)).all()


def test_dilated_convolutions_reach_what_they_say(monkeypatch):
    """2 * (sum of dilations) positions to each side, and one each for the first and the last layer."""
    monkeypatch.setattr(torch.nn.GroupNorm, "forward", lambda self, x: x)  # which sees everything
    seen = reach(CNN(1, (64,), width=8, depth=3, dilations=(1, 4)), (32,), (64,))
    assert seen.nonzero().flatten().tolist() == list(range(32 - 14, 32 + 15))
    seen = reach(CNN(1, (32, 32), width=8, depth=1, dilations=(2,), patch_size=2), (16, 16), (32, 32))
    rows = seen.any(1).nonzero().flatten()
    assert (rows.min(), rows.max()) == (16 - 2 * 6, 17 + 2 * 6)


@pytest.mark.parametrize("at", [0, 50, 99])
def test_a_cnn_sees_all_of_a_signal_of_100(at, monkeypatch):
    monkeypatch.setattr(torch.nn.GroupNorm, "forward", lambda self, x: x)
    assert reach(CNN(1, (100,), width=8, patch_size=2), (at,), (100,)).all()


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
        stirred(DiT(1, (8,), width=16, num_heads=heads)).blocks[0].double(),
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


@torch.no_grad()
def test_a_dit_knows_positions(data, randn):
    """The same patch in another place has another result."""
    (channels, size), (_, c_noise) = data, inputs(*data, randn)
    net = stirred(DiT(channels, size, width=16, depth=1, num_heads=2, patch_size=2)).double()
    result = net.patches.patchify(net(torch.ones(4, channels, *size, dtype=torch.float64), c_noise)).flatten(2)
    distances = torch.cdist(result.mT, result.mT) + torch.eye(result.shape[2])
    assert distances.min() > 1e-6


@torch.no_grad()
def test_tanh_output_ends_with_tanh(data, randn):
    (x, c_noise), weights = inputs(*data, randn), ConvAutoencoder(*data, width=8).state_dict()
    free, bounded = (ConvAutoencoder(*data, width=8, tanh_output=tanh).double() for tanh in (False, True))
    weights = {name: 3 * value if "stages" in name else torch.ones_like(value) for name, value in weights.items()}
    free.load_state_dict(weights)
    bounded.load_state_dict(weights)
    assert free(x, c_noise).abs().max() > 1 >= bounded(x, c_noise).abs().max()
    assert_close(bounded(x, c_noise), free(x, c_noise).tanh(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("net", [CNN, DiT, ConvAutoencoder])
def test_three_axes_are_refused(net):
    with pytest.raises(ValueError, match=r"data.size must have one or two axes for .*, got \[8, 8, 8\]; use net=mlp"):
        net(1, (8, 8, 8))


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
        (DiT, (8,), {"width": 9, "num_heads": 3}, r"net.width must be a multiple of 2 for 1-dimensional data, got 9"),
        (DiT, (8, 8), {"width": 6, "num_heads": 3}, r"net.width must be a multiple of 4 for 2-dimensional data, got 6"),
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

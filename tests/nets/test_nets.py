import copy

import pytest
import torch
from torch.testing import assert_close

from src.diffusion.denoiser import Denoiser
from src.diffusion.parameterizations import Velocity
from src.diffusion.tables import cosine
from src.nets.mlp import MLP
from src.nets.unet import UNet

SMALL = {"width": 8, "groups": 4, "heads": 2}
DATA = {
    "signal": (1, (16,)),
    "3-channel signal": (3, (8,)),
    "image": (1, (8, 8)),
    "wide colour image": (3, (8, 16)),
}


def unet(**options):
    return lambda channels, size, **more: UNet(channels, size, **SMALL, **options, **more)


NETS = {
    "unet": unet(),
    "unet patch": unet(patch=2),
    "unet attention": unet(attention=(0, 1), blocks=2),
    "unet bare": unet(mults=(1,), middle_attention=False),
    "unet deep": unet(mults=(1, 2, 2), attention=(2,)),
    "mlp": lambda channels, size, **more: MLP(channels, size, hidden=16, layers=2, **more),
}


@pytest.fixture(params=NETS)
def make(request):
    """Builds the network of this name for some data, with weights that are the same every time."""

    def build(channels, size, zeros=False, **more):
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
    result = make(*data, zeros=True, outputs=outputs)(x.float(), c_noise)
    assert torch.equal(result, torch.zeros(4, outputs * data[0], *data[1]))


@torch.no_grad()
@pytest.mark.parametrize("outputs", [1, 2, 3])
@pytest.mark.parametrize("number", [1, 2])
def test_tensors_side_by_side(make, data, number, outputs, randn):
    """With several inputs and outputs, each output depends on every input, and no two are the same."""
    (channels, size), (_, c_noise) = data, inputs(*data, randn)
    x = randn(4, number * channels, *size)
    net = make(channels, size, inputs=number, outputs=outputs).double()
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
    two = make(*data, inputs=2).double()
    one = make(*data).double()
    state = {name: cut(two.state_dict()[name], value.shape) for name, value in one.state_dict().items()}
    one.load_state_dict(state)
    assert_close(two(torch.cat([x, 0 * x], 1), c_noise), one(x, c_noise), rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("number", [1, 2])
def test_points(number, randn):
    """(B, C): a sample without extent."""
    net, c_noise = stirred(MLP(2, (), hidden=16, layers=2, inputs=number, outputs=2)).double(), torch.arange(5.0)
    x = randn(5, 2 * number)
    result = net(x, c_noise)
    flat = stirred(MLP(4, (), hidden=16, layers=2)).double()
    assert result.shape == (5, 4) and result.std(0).min() > 1e-3
    if number == 2:
        flat.load_state_dict(net.state_dict())
        assert torch.equal(flat(x, c_noise), result)


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
    with pytest.raises(ValueError, match=r"net\.num_classes=0"):
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
    for net in UNet(*data, **SMALL, dropout=0.5), MLP(*data, hidden=16, dropout=0.5):
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
    denoiser = Denoiser(make(*data), cosine(), Velocity())
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
    net = stirred(MLP(2, (2, 3, 4), hidden=8, layers=1)).double()
    flat = stirred(MLP(1, (48,), hidden=8, layers=1)).double()
    flat.load_state_dict(net.state_dict())
    x, c_noise = randn(3, 2, 2, 3, 4), torch.tensor([1.0, 2.0, 3.0])
    assert_close(net(x, c_noise).flatten(), flat(x.view(3, 1, 48), c_noise).flatten())


@pytest.mark.parametrize(
    ("size", "options", "factor", "fitting"),
    [
        ((28, 28), {"mults": (1, 2, 4, 8)}, 8, "32x32|24x24"),
        ((29,), {"mults": (1, 2)}, 2, "28|30"),
        ((28, 30), {"mults": (1, 2), "patch": 2}, 4, "28x32|28x28"),
        ((3,), {"mults": (1, 2, 2, 2)}, 8, "8"),
    ],
)
def test_unet_refuses_sizes(size, options, factor, fitting):
    with pytest.raises(ValueError, match=rf"multiple of {factor}; data.size is .*a size such as ({fitting})$") as error:
        UNet(1, size, **SMALL, **options)
    suggestion = [int(side) for side in str(error.value).split()[-1].split("x")]
    UNet(1, suggestion, **SMALL, **options)


def test_unet_refuses_three_axes():
    with pytest.raises(ValueError, match="one or two"):
        UNet(1, (8, 8, 8), **SMALL)

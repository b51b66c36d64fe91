import pytest
import torch
from torch import nn
from torch.testing import assert_close

from src.diffusion.denoiser import Denoiser
from src.diffusion.parameterizations import Data, Epsilon, Velocity
from src.diffusion.schedules import linear, match

SHAPES = [(1, 7), (3, 5), (1, 4, 4), (3, 4, 6)]
T = torch.tensor([1e-3, 0.1234, 0.5, 0.9], dtype=torch.float64)

# What the network should put out, from the data and the noise.
TARGETS = {
    Epsilon: lambda alpha, sigma, x_0, eps: eps,
    Data: lambda alpha, sigma, x_0, eps: x_0,
    Velocity: lambda alpha, sigma, x_0, eps: (alpha * eps - sigma * x_0) / (alpha**2 + sigma**2).sqrt(),
}


class Fixed(nn.Module):
    """Puts out what it is told, and remembers what it was given."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x, c_noise, cond):
        self.given = x, c_noise, cond
        return self.output


@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.parametrize("part", TARGETS)
def test_exact_output_gives_the_data(part, data, schedule, randn):
    if part is Epsilon and schedule.alpha_sigma(torch.ones(()).double())[0] < 1e-6:
        pytest.skip("refused")
    x_0, eps = randn(4, *data), randn(4, *data)
    alpha, sigma = (match(v, x_0) for v in schedule.alpha_sigma(T))
    net = Fixed(TARGETS[part](alpha, sigma, x_0, eps))
    prediction = Denoiser(net, schedule, part())(alpha * x_0 + sigma * eps, T)
    assert_close(prediction.x_0, x_0, rtol=0, atol=1e-9)
    assert torch.equal(prediction.output, net.output)


@pytest.mark.parametrize("part", TARGETS)
def test_network_input(part, schedule, randn):
    """Unit variance for data of unit variance; told 1000 t and the label."""
    if part is Epsilon and schedule.alpha_sigma(torch.ones(()).double())[0] < 1e-6:
        pytest.skip("refused")
    alpha, sigma = schedule.alpha_sigma(T)
    assert_close(part().scalings(T, alpha, sigma).c_in ** 2 * (alpha**2 + sigma**2), torch.ones(4).double())

    net, label = Fixed(torch.zeros(4, 1, 20_000).double()), torch.tensor([0, 1, 2, -1])
    x_t = schedule.add_noise(randn(4, 1, 20_000), T, randn(4, 1, 20_000))
    Denoiser(net, schedule, part())(x_t, T, label)
    x, c_noise, cond = net.given
    assert_close(x.var((1, 2)), torch.ones(4).double(), rtol=0, atol=5 * (2 / 20_000) ** 0.5)
    assert_close(c_noise, (1000 * T).float())
    assert torch.equal(cond, label)


@pytest.mark.parametrize("part", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_time_for_the_batch(part, dtype, randn):
    x_t, net = randn(4, 3, 2, 5).to(dtype), Fixed(randn(4, 3, 2, 5).to(dtype))
    denoiser = Denoiser(net, linear(), part())
    one, each = denoiser(x_t, T[1]), denoiser(x_t, T[1].expand(4))
    assert one.x_0.dtype == dtype
    assert_close(one.x_0, each.x_0, rtol=1e-5, atol=1e-6)
    assert net.given[1].shape == (4,)


def test_low_precision_output_is_combined_in_the_precision_of_x(randn):
    output = randn(4, 1, 8).bfloat16()
    x_t, denoiser = randn(4, 1, 8).float(), Denoiser(Fixed(output), linear(), Epsilon())
    alpha, sigma = (match(v, x_t) for v in linear().alpha_sigma(T))
    assert_close(denoiser(x_t, T).x_0, (x_t - sigma * output.float()) / alpha, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["trigonometric", "flow"])
def test_noise_cannot_be_predicted_where_there_is_no_signal(name, make_schedule):
    with pytest.raises(ValueError, match=r"divides by alpha.*use parameterization=v or x0"):
        Denoiser(nn.Identity(), make_schedule(name), Epsilon())


@pytest.mark.parametrize("name", ["trigonometric", "flow"])
@pytest.mark.parametrize("part", [Data, Velocity])
def test_data_and_velocity_work_where_there_is_no_signal(name, part, make_schedule, randn):
    x_0, eps, one = randn(2, 1, 5), randn(2, 1, 5), torch.ones(()).double()
    net = Fixed(TARGETS[part](0 * one, one, x_0, eps))
    assert_close(Denoiser(net, make_schedule(name), part())(eps, one).x_0, x_0, rtol=0, atol=1e-12)

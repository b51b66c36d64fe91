import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from src.diffusion import weightings
from src.diffusion.denoiser import Denoiser
from src.diffusion.losses import L1, MSE, Huber
from src.diffusion.parameterizations import Data, Epsilon, Velocity
from src.diffusion.schedules import match

SHAPES = [(1, 7), (3, 5), (1, 4, 4), (3, 4, 6)]
WEIGHTINGS = [weightings.uniform, weightings.simple, weightings.velocity]
T = torch.tensor([1e-3, 0.1234, 0.5, 1.0], dtype=torch.float64)


def predictor(x_t):
    """Any prediction of the data."""
    return torch.tanh(0.7 * x_t + 0.1)


class Wrapped(nn.Module):
    """The network that makes a denoiser predict as `predictor` does: the scalings, inverted."""

    def __init__(self, scalings):
        super().__init__()
        self.scalings = scalings

    def forward(self, x, c_noise, cond):
        c_in, c_skip, c_out, _ = (match(c, x) for c in self.scalings)
        x_t = x / c_in
        return (predictor(x_t) - c_skip * x_t) / c_out


def wrap(part, schedule):
    return Denoiser(Wrapped(part.scalings(T, *schedule.alpha_sigma(T))), schedule, part)


@pytest.fixture(params=["linear", "cosine"])
def vp(request, make_schedule):
    return make_schedule(request.param)


@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("loss", [MSE, L1, Huber])
def test_does_not_depend_on_the_parameterization(loss, weighting, data, vp, randn):
    x_0, eps = randn(4, *data), randn(4, *data)
    by_eps, by_x_0, by_v = (loss(weighting)(wrap(part(), vp), x_0, T, eps) for part in (Epsilon, Data, Velocity))
    assert_close(by_eps, by_x_0, rtol=1e-8, atol=0)
    assert_close(by_v, by_x_0, rtol=1e-8, atol=0)


@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.parametrize("part", [Epsilon, Data, Velocity])
class TestMeaning:
    """In which space each weighting measures, computed there, from the same prediction of the data."""

    def parts(self, vp, x_0, eps):
        alpha, sigma = (match(v, x_0) for v in vp.alpha_sigma(T))
        x_t = alpha * x_0 + sigma * eps
        x_0_hat = predictor(x_t)
        return alpha, sigma, x_0_hat, (x_t - alpha * x_0_hat) / sigma

    def test_uniform_is_the_error_of_the_data(self, part, data, vp, randn):
        x_0, eps = randn(4, *data), randn(4, *data)
        _, _, x_0_hat, _ = self.parts(vp, x_0, eps)
        expected = F.mse_loss(x_0_hat, x_0, reduction="none").flatten(1).mean(1)
        assert_close(MSE(weightings.uniform)(wrap(part(), vp), x_0, T, eps), expected, rtol=1e-8, atol=0)

    def test_simple_is_the_error_of_the_noise(self, part, data, vp, randn):
        x_0, eps = randn(4, *data), randn(4, *data)
        _, _, _, eps_hat = self.parts(vp, x_0, eps)
        expected = F.mse_loss(eps_hat, eps, reduction="none").flatten(1).mean(1)
        assert_close(MSE(weightings.simple)(wrap(part(), vp), x_0, T, eps), expected, rtol=1e-8, atol=0)

    def test_velocity_is_the_error_of_v(self, part, data, vp, randn):
        x_0, eps = randn(4, *data), randn(4, *data)
        alpha, sigma, x_0_hat, eps_hat = self.parts(vp, x_0, eps)
        error = F.mse_loss(alpha * eps_hat - sigma * x_0_hat, alpha * eps - sigma * x_0, reduction="none")
        assert_close(
            MSE(weightings.velocity)(wrap(part(), vp), x_0, T, eps), error.flatten(1).mean(1), rtol=1e-8, atol=0
        )


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.parametrize(
    ("loss", "distance"),
    [
        (MSE, F.mse_loss),
        (L1, F.l1_loss),
        (Huber, F.huber_loss),
        (lambda w: Huber(w, 0.1), lambda *args, **kwargs: F.huber_loss(*args, delta=0.1, **kwargs)),
    ],
    ids=["mse", "l1", "huber", "huber 0.1"],
)
def test_equals_torch(loss, distance, data, weighting, vp, randn):
    x_0, eps = randn(4, *data), randn(4, *data)
    root = match(weighting(*vp.alpha_sigma(T)).sqrt(), x_0)
    x_0_hat = predictor(vp.add_noise(x_0, T, eps))
    expected = distance(root * x_0_hat, root * x_0, reduction="none").flatten(1).mean(1)
    assert_close(loss(weighting)(wrap(Data(), vp), x_0, T, eps), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("loss", [MSE, L1, Huber])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_zero_for_a_perfect_prediction(loss, weighting, vp, randn):
    x_0, eps = randn(4, 2, 3), randn(4, 2, 3)

    class Oracle(nn.Module):
        def forward(self, x, c_noise, cond):
            return eps

    assert_close(
        loss(weighting)(Denoiser(Oracle(), vp, Epsilon()), x_0, T, eps), torch.zeros(4).double(), atol=1e-9, rtol=0
    )


@pytest.mark.parametrize("loss", [MSE, L1, Huber])
@pytest.mark.parametrize("data", SHAPES)
def test_samples_do_not_mix(loss, data, vp, randn):
    x_0, eps = randn(4, *data), randn(4, *data)
    before = loss(weightings.velocity)(wrap(Data(), vp), x_0, T, eps)
    x_0[2], eps[3] = 7, -3
    after = loss(weightings.velocity)(wrap(Data(), vp), x_0, T, eps)
    assert torch.equal(before[:2], after[:2])
    assert (before[2:] != after[2:]).all()


def test_passes_the_label_on(vp, randn):
    class Echo(nn.Module):
        def forward(self, x, c_noise, cond):
            return cond.to(x).view(-1, 1, 1).expand_as(x)

    x_0, eps, label = torch.zeros(4, 1, 3).double(), randn(4, 1, 3), torch.tensor([-1, 0, 2, 5])
    losses = MSE(weightings.uniform)(Denoiser(Echo(), vp, Data()), x_0, T, eps, label)
    assert_close(losses, label.double() ** 2)


@pytest.mark.parametrize("part", [Epsilon, Data, Velocity])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_single_precision_suffices(part, weighting, vp, randn):
    """At the smallest time drawn in training too, where the weights are largest."""
    x_0, eps, t = randn(4, 1, 16), randn(4, 1, 16), torch.tensor([1e-5, 1e-3, 0.5, 1]).double()

    class Half(nn.Module):
        def forward(self, x, c_noise, cond):
            return 0.5 * x

    denoiser = Denoiser(Half(), vp, part())
    exact = MSE(weighting)(denoiser, x_0, t, eps)
    assert_close(MSE(weighting)(denoiser, x_0.float(), t, eps.float()).double(), exact, rtol=2e-3, atol=1e-9)

"""The input of the network, and the prediction from its output."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from src.diffusion import schedules
from src.diffusion.beta_schedules import CosineSchedule
from src.diffusion.denoiser import Denoiser, Prediction
from src.diffusion.losses import MSE
from src.diffusion.parameterizations import X0, Eps, Score, V
from src.diffusion.schedules import expand_like
from src.diffusion.variances import FixedLargeVariance, FixedSmallVariance, LearnedRangeVariance, LearnedVariance
from src.diffusion.weightings import uniform_weighting
from src.nets.mlp import MLP
from src.nets.unet import UNet
from tests.diffusion.expected import SINGULAR, TRUTHS
from tests.diffusion.reference import SHAPES

pytestmark = pytest.mark.strength(1)

T = torch.tensor([1e-3, 0.25, 0.7, 0.98], dtype=torch.float64)


class Recorder(nn.Module):
    """A network of one channel-wise formula, that notes what it was given."""

    def __init__(self, channels, outputs=1, inputs=1):
        super().__init__()
        self.outputs = outputs
        self.mix = nn.Parameter(torch.linspace(-1, 1, channels * inputs * channels * outputs, dtype=torch.float64))
        self.calls = []

    def forward(self, x, c_noise, cond=None):
        self.calls.append((x.detach().clone(), c_noise, cond))
        return torch.tanh(torch.einsum("oi,bi...->bo...", self.mix.view(-1, x.shape[1]), x))


@pytest.mark.parametrize("part", TRUTHS)
@pytest.mark.parametrize("process", ["linear", "cosine", "sub_vp_sde", "ve_sde", "flow"])
def test_scalings_go_around_the_network(part, process, make_schedule, randn):
    schedule, parameterization = make_schedule(process), TRUTHS[part][0]
    if process == "flow" and part in SINGULAR:
        return
    for shape in SHAPES:
        x_t, label, net = randn(4, *shape), torch.tensor([-1, 0, 1, 5]), Recorder(shape[0])
        found = Denoiser(net, schedule, parameterization)(x_t, T, label)
        c_in, c_skip, c_out, c_noise = parameterization.preconditioning(schedule, T)
        ((x_in, told, cond),) = net.calls
        assert_close(x_in, expand_like(c_in, x_t) * x_t)
        assert told.dtype == torch.float32 and torch.equal(told, c_noise.float())
        assert torch.equal(cond, label)
        output = net(x_in, told, cond)
        assert_close(found.x_0, expand_like(c_skip, x_t) * x_t + expand_like(c_out, x_t) * output)
        assert found.variance is None


def test_one_time_is_that_of_every_sample(schedule, randn):
    x_t, t = randn(4, 3, 5), torch.tensor(0.3).double()
    net = Recorder(3)
    denoiser = Denoiser(net, schedule, V())
    assert_close(denoiser(x_t, t).x_0, denoiser(x_t, t.expand(4)).x_0, rtol=1e-12, atol=1e-12)
    assert net.calls[0][1].shape == net.calls[1][1].shape == (4,)


@pytest.mark.parametrize("variance", [LearnedVariance, LearnedRangeVariance])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_second_half_is_the_variance(variance, shape, randn):
    """As the network says it; the first half alone makes x_0."""
    x_t, c = randn(4, *shape), shape[0]
    net = Recorder(c, outputs=2)
    found = Denoiser(net, CosineSchedule(), V(), variance())(x_t, T)
    _, c_skip, c_out, _ = (expand_like(v, x_t) for v in V().preconditioning(CosineSchedule(), T))
    output = net(*net.calls[0])
    assert_close(found.x_0, c_skip * x_t + c_out * output[:, :c])
    assert_close(found.variance, output[:, c:], rtol=0, atol=0)


def test_low_precision_output_is_taken_in_that_of_the_sample(randn):
    x_t = randn(4, 1, 6).float()

    class Low(nn.Module):
        def forward(self, x, c_noise, cond=None):
            return torch.tanh(x).bfloat16()

    found = Denoiser(Low(), CosineSchedule(), Eps())(x_t, T)
    c_in, c_skip, c_out, _ = (expand_like(c, x_t) for c in Eps().preconditioning(CosineSchedule(), T))
    assert found.x_0.dtype == torch.float32
    assert torch.equal(found.x_0, c_skip * x_t + c_out * torch.tanh(c_in * x_t).bfloat16().float())


def test_variance_is_small_unless_told():
    assert isinstance(Denoiser(nn.Identity(), CosineSchedule(), X0()).variance, FixedSmallVariance)
    assert isinstance(
        Denoiser(nn.Identity(), CosineSchedule(), X0(), FixedLargeVariance()).variance, FixedLargeVariance
    )


@pytest.mark.parametrize("part", [Eps, Score])
@pytest.mark.parametrize("process", ["flow", "laplace", "zero_snr", "trigonometric"])
def test_a_singular_combination_is_refused(part, process, make_schedule):
    with pytest.raises(ValueError, match=r"divides by alpha, .* use parameterization=v, flow, edm or x0"):
        Denoiser(nn.Identity(), make_schedule(process), part())


# ---- self-conditioning ----


def conditioned(share=0.5, shape=(3, 5), outputs=1):
    variance = LearnedVariance() if outputs == 2 else None
    return Denoiser(Recorder(shape[0], outputs, inputs=2), CosineSchedule(), V(), variance, share)


def shown(denoiser):
    """The estimates that the network was shown."""
    return [x.chunk(2, 1)[1] for x, *_ in denoiser.net.calls]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("outputs", [1, 2])
def test_in_evaluation_there_is_always_a_first_estimate(shape, outputs, randn):
    denoiser, x_t, label = conditioned(0.3, shape, outputs).eval(), randn(4, *shape), torch.tensor([0, 1, -1, 2])
    for _ in range(5):
        denoiser.net.calls.clear()
        found = denoiser(x_t, T, label)
        first, second = shown(denoiser)
        assert not first.any()
        assert torch.equal(second, denoiser(x_t, T, label, torch.zeros_like(x_t)).x_0)
        assert torch.equal(found.x_0, denoiser(x_t, T, label, second).x_0)
        assert all(torch.equal(cond, label) for *_, cond in denoiser.net.calls)
        assert (found.variance is None) == (outputs == 1)


@pytest.mark.most(1)
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_in_training_there_is_one_in_a_share_of_the_steps(share, randn):
    denoiser, x_t, n = conditioned(share).train(), randn(4, 3, 5), 400
    torch.manual_seed(0)
    estimated = 0
    for _ in range(n):
        denoiser.net.calls.clear()
        denoiser(x_t, T)
        *_, last = shown(denoiser)
        assert len(denoiser.net.calls) == 1 + bool(last.any())
        estimated += bool(last.any())
    assert estimated / n == pytest.approx(share, abs=4 * (share * (1 - share) / n) ** 0.5)


def test_no_gradient_flows_through_the_estimate(randn):
    """It is that of a network which was handed the estimate as data, and the estimate is not a part of the graph."""
    denoiser, x_0, noise = conditioned(0.999).train(), randn(4, 3, 5), randn(4, 3, 5)
    torch.manual_seed(0)
    loss = MSE(uniform_weighting)(denoiser, x_0, T, noise).sum()
    (gradient,) = torch.autograd.grad(loss, denoiser.net.mix)
    x_t = denoiser.schedule.add_noise(x_0, T, noise)
    zeros = torch.zeros_like(x_t)
    detached = denoiser(x_t, T, None, denoiser(x_t, T, None, zeros).x_0.detach())
    (expected,) = torch.autograd.grad((detached.x_0 - x_0).square().flatten(1).mean(1).sum(), denoiser.net.mix)
    assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
    through = denoiser(x_t, T, None, denoiser(x_t, T, None, zeros).x_0)
    (other,) = torch.autograd.grad((through.x_0 - x_0).square().flatten(1).mean(1).sum(), denoiser.net.mix)
    assert (gradient - other).abs().max() > 1e-3 * gradient.abs().max()


def test_a_given_estimate_is_shown_as_it_is(randn):
    denoiser, x_t, estimate = conditioned(), randn(4, 3, 5), randn(4, 3, 5)
    for mode in (True, False):
        denoiser.train(mode).net.calls.clear()
        denoiser(x_t, T, None, estimate)
        assert len(denoiser.net.calls) == 1 and torch.equal(shown(denoiser)[0], estimate)
    c_in = expand_like(V().preconditioning(CosineSchedule(), T).c_in, x_t)
    assert torch.equal(denoiser.net.calls[0][0].chunk(2, 1)[0], c_in * x_t), "below x_t"


def test_without_it_nothing_changes(randn):
    x_t, net = randn(4, 3, 5), Recorder(3)
    Denoiser(net, CosineSchedule(), V()).train()(x_t, T, None, randn(4, 3, 5))
    assert len(net.calls) == 1 and net.calls[0][0].shape == x_t.shape


@pytest.mark.parametrize("make", [lambda **k: MLP(2, (8,), width=8, depth=1, **k), lambda **k: UNet(2, (8,), 8, **k)])
def test_with_the_projects_networks(make, randn):
    """Both options at once, in training and evaluation."""
    torch.manual_seed(0)
    net = make(in_channels=4, out_channels=4)
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    denoiser = Denoiser(net, schedules.VPSDE(), Eps(), LearnedRangeVariance(), 0.5)
    x_t = randn(4, 2, 8).float()
    for mode in (True, False):
        said = denoiser.train(mode)(x_t, T)
        assert isinstance(said, Prediction) and said.x_0.shape == said.variance.shape == x_t.shape
        assert said.x_0.std() > 0 and said.variance.std() > 0


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5])
def test_impossible_shares(share):
    with pytest.raises(ValueError, match=r"self_conditioning_prob must be in \[0, 1\)"):
        Denoiser(nn.Identity(), CosineSchedule(), X0(), self_conditioning_prob=share)


@pytest.mark.parametrize(("shape", "expected"), [((2, 3, 4), True), ((2, 7), False)])
def test_the_layout_of_the_input(shape, expected, randn):
    """With the channels last for images only; the prediction is contiguous and the same."""

    class Layout(Recorder):
        def forward(self, x, c_noise, cond=None):
            last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
            self.layouts = [*getattr(self, "layouts", []), last]
            return super().forward(x, c_noise, cond)

    denoiser, x_t = Denoiser(Layout(2), CosineSchedule(), V()), randn(5, *shape)
    before = denoiser(x_t, torch.tensor(0.3)).x_0
    denoiser.use_channels_last()
    after = denoiser(x_t, torch.tensor(0.3)).x_0
    assert denoiser.net.layouts == [False, expected] and after.is_contiguous()
    assert_close(after, before)

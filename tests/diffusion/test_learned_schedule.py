import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from src.diffusion import weightings
from src.diffusion.denoiser import Denoiser, Prediction
from src.diffusion.learned_schedule import LearnedSchedule
from src.diffusion.losses import MSE, VLB
from src.diffusion.operators import Downsample
from src.diffusion.parameterizations import EDM, X0, PosteriorMean, V
from src.diffusion.posterior_guidance import DDNM, PiGDM
from src.diffusion.schedules import derivative, expand_like, variance_preserving
from src.diffusion.time_samplers import StratifiedTimeSampler, UniformTimeSampler
from src.samplers.ode import Restart
from tests.diffusion.expected import ONE

pytestmark = pytest.mark.strength(1)

T = torch.linspace(0, 1, 4001, dtype=torch.float64)


def scrambled(seed=0, spread=1.0, **kwargs):
    schedule, g = LearnedSchedule(**kwargs), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in schedule.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=g))
    return schedule


class Small(nn.Module):
    """A network with weights that also uses the time."""

    def __init__(self, size):
        super().__init__()
        self.linear = nn.Linear(size + 1, size).double()

    def forward(self, x, c_noise, cond):
        flat = torch.cat([x.flatten(1), c_noise[:, None].to(x) / 1000], 1)
        return torch.tanh(self.linear(flat)).view_as(x)


class IdealOutput(nn.Module):
    r"""For `EDM(1.0)`, given c_noise = -125 log-SNR: makes it :math:`E[x_0 | x_t]` of normal data."""

    def __init__(self, std):
        super().__init__()
        self.std = std

    def forward(self, x_t, c_noise, cond):
        alpha, sigma = (expand_like(v, x_t) for v in variance_preserving(-c_noise.to(x_t) / 125))
        x_0 = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2) * x_t
        return (x_0 - alpha * x_t) / sigma


# ---- the curve ----


@pytest.mark.parametrize("spread", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("seed", range(5))
def test_is_monotone_between_exact_ends(seed, spread):
    schedule = scrambled(seed, spread, log_snr_max=9.0, log_snr_min=-6.5)
    log_snr = schedule.log_snr(T).detach()
    assert (log_snr.diff() < 0).all()
    assert_close(log_snr[[0, -1]], torch.tensor([9.0, -6.5], dtype=torch.float64), rtol=0, atol=1e-13)
    alpha, sigma = (v.detach() for v in schedule.alpha_sigma(0 * ONE))
    assert_close(sigma / alpha, torch.exp(-4.5 * ONE), rtol=1e-12, atol=0)


def test_equals_its_formula():
    schedule = scrambled(hidden=5)
    w_1, w_3, w_2, centers = (p.detach().double() for p in schedule.parameters())
    w_1, w_2, w_3 = (w.exp().log1p() for w in (w_1, w_2, w_3))
    gamma = [w_1 * t + sum(w_3 / (1 + torch.exp(-(w_2 * (t - centers))))) for t in T[::100]]
    share = torch.stack([(g - gamma[0]) / (gamma[-1] - gamma[0]) for g in gamma])
    assert_close(schedule.log_snr(T[::100]).detach(), 13.3 - 18.3 * share, rtol=0, atol=1e-12)


def test_starts_close_to_a_straight_line():
    assert_close(LearnedSchedule().log_snr(T).detach(), 13.3 - 18.3 * T, rtol=0, atol=0.5)


@pytest.mark.parametrize("seed", range(3))
def test_rate_is_the_derivative(seed):
    schedule = scrambled(seed)
    assert_close(schedule.log_snr_rate(T).detach(), derivative(schedule.log_snr, T), rtol=1e-9, atol=0)
    assert schedule.log_snr_rate(T[17]).shape == ()


def test_every_time_alone_equals_all_at_once():
    schedule = scrambled()
    alone = torch.stack([schedule.log_snr(t) for t in T[::500]])
    assert_close(alone.detach(), schedule.log_snr(T[::500]).detach(), rtol=0, atol=1e-12)


# ---- what it is trained on ----


@pytest.mark.parametrize("parameterization", [X0(), V(), EDM(0.5), PosteriorMean(100)])
@pytest.mark.parametrize("data", [(1, 4), (2, 2, 3)])
def test_gradient_is_that_of_the_mean_square(parameterization, data, randn):
    """The schedule gets the gradient of the variance, the network that of the mean; both against plain autograd."""
    denoiser = Denoiser(Small(math.prod(data)), scrambled(hidden=8), parameterization).double()
    x_0, noise = randn(6, *data), randn(6, *data)
    t = torch.tensor([1e-5, 0.04, 0.3, 0.55, 0.8, 1.0], dtype=torch.float64)
    weights, curve = list(denoiser.net.parameters()), list(denoiser.schedule.parameters())

    plain = MSE(weightings.likelihood_weighting)(denoiser, x_0, t, noise)
    of_square = torch.autograd.grad(plain.square().mean(), curve, retain_graph=True)
    of_mean = torch.autograd.grad(plain.mean(), weights)
    denoiser.schedule.log_snr(t).sum().backward()  # what came before does not matter
    denoiser.zero_grad()

    losses = VLB(steps=None)(denoiser, x_0, t, noise)
    denoiser.schedule.log_snr(t)  # nor does what is asked after it, as for a log
    Denoiser(Small(math.prod(data)), denoiser.schedule, X0())(x_0, t)
    losses.mean().backward()
    for mine, true in zip(curve, of_square, strict=True):
        assert true.abs().max() > 1e-6
        assert_close(mine.grad * math.log(2), true, rtol=1e-5, atol=1e-6 * float(true.abs().max()))
    for mine, true in zip(weights, of_mean, strict=True):
        assert_close(mine.grad * math.log(2), true, rtol=1e-9, atol=1e-12)


def test_batches_that_are_added_up_keep_their_own_losses(randn):
    """Two losses first, both backward passes later."""
    denoiser = Denoiser(Small(4), scrambled(hidden=8), V()).double()
    batches = [(randn(3, 1, 4), torch.rand(3, dtype=torch.float64), randn(3, 1, 4)) for _ in range(2)]
    curve = list(denoiser.schedule.parameters())
    expected = [
        torch.autograd.grad(MSE(weightings.likelihood_weighting)(denoiser, *batch).square().mean(), curve)
        for batch in batches
    ]
    denoiser.schedule.grad_scale = {}
    losses = [VLB(steps=None)(denoiser, *batch) for batch in batches]
    sum(loss.mean() for loss in losses).backward()
    for mine, first, second in zip(curve, *expected, strict=True):
        assert_close(mine.grad * math.log(2), first + second, rtol=1e-5, atol=1e-7)


def test_gradients_are_finite_at_both_ends(randn):
    """The interior alone moves: at the ends the log-SNR is fixed."""
    schedule = scrambled()
    schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)).sum().backward()
    for parameter in schedule.parameters():
        assert_close(parameter.grad, torch.zeros_like(parameter), rtol=0, atol=1e-9)
    denoiser = Denoiser(Small(4), schedule, EDM(0.5)).double()
    VLB(steps=None)(denoiser, randn(2, 1, 4), torch.tensor([0.0, 1.0]).double(), randn(2, 1, 4)).mean().backward()
    assert all(p.grad.isfinite().all() for p in schedule.parameters())


@pytest.mark.slow
def test_training_lowers_the_variance_of_the_bound_and_keeps_its_mean():
    """The ideal denoiser of normal data, N(0, 0.5^2) in 16 dimensions.

    The diffusion term of the bound is then log(1 + 0.25 SNR) / 2 between the two ends, for every schedule, and the
    best one makes every t contribute alike. What is left is the randomness of x_t: 2 / 16 of the squared mean. The
    first schedule has 2.8 times that.
    """
    d, std, g = 16, 0.5, torch.Generator().manual_seed(0)
    denoiser = Denoiser(IdealOutput(std), LearnedSchedule(log_snr_max=8.0, log_snr_min=-1.0), EDM(1.0))
    loss, times = VLB(steps=None), UniformTimeSampler(1e-9)
    ends = torch.tensor([8.0, -1.0], dtype=torch.float64)
    first, last = torch.log1p(std**2 * ends.exp()) / 2 / math.log(2)
    prior = std**2 * math.exp(-1) / 2 / math.log(2)

    def batch(n):
        x_0, noise = std * torch.randn(n, d, generator=g).double(), torch.randn(n, d, generator=g).double()
        return loss(denoiser, x_0, times(n, g, denoiser.schedule), noise)

    def measure(n=40_000):
        with torch.no_grad():
            losses = batch(n)
        assert abs(losses.mean() - (first - last + prior)) < 5 * losses.std() / n**0.5
        return float(losses.var())

    before = measure()
    optimizer = torch.optim.Adam(denoiser.schedule.parameters(), 0.1)
    for _ in range(60):
        optimizer.zero_grad()
        batch(256).mean().backward()
        optimizer.step()
    after, least = measure(), 2 / d * float(first - last) ** 2
    assert after < before / 2
    assert 0.9 * least < after < 1.35 * least


def test_stratified_times_ask_it_for_nothing(randn):
    """Times are drawn on [0, 1], whatever the curve."""
    g = torch.Generator().manual_seed(0)
    assert StratifiedTimeSampler()(8, g, scrambled()).grad_fn is None
    assert scrambled().inverse_log_snr(torch.linspace(-4, 12, 9, dtype=torch.float64)).grad_fn is None


# ---- as a part of a model ----


@pytest.mark.parametrize("move", [nn.Module.half, nn.Module.bfloat16, nn.Module.double])
def test_moves_keep_the_precision(move):
    """Weights are rounded, but what is computed from them is not: still strictly monotone, with exact ends."""
    schedule = scrambled()
    exact = schedule.log_snr(T).detach()
    log_snr = move(schedule).log_snr(T).detach()
    assert log_snr.dtype == torch.float64
    assert (log_snr.diff() < 0).all()
    assert_close(log_snr[[0, -1]], torch.tensor([13.3, -5.0], dtype=torch.float64), rtol=0, atol=1e-12)
    assert_close(log_snr, exact, rtol=0, atol=0.5)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_learn_apart(copier, randn):
    denoiser = Denoiser(Small(4), scrambled(), V()).double()
    VLB(steps=None)(denoiser, randn(3, 1, 4), torch.rand(3).double(), randn(3, 1, 4))
    other = copier(denoiser)
    assert torch.equal(other.schedule.log_snr(T), denoiser.schedule.log_snr(T))
    with torch.no_grad():
        other.schedule.slope += 1
    assert not torch.equal(other.schedule.log_snr(T), denoiser.schedule.log_snr(T))


def test_state_is_its_weights():
    schedule, other = scrambled(1), scrambled(2)
    other.load_state_dict(schedule.state_dict())
    assert torch.equal(other.log_snr(T), schedule.log_snr(T))


def test_refuses():
    with pytest.raises(ValueError, match=r"schedule\.log_snr_max must be > schedule\.log_snr_min, got -5\.0 and -5\.0"):
        LearnedSchedule(log_snr_max=-5.0)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_samples_are_no_function_of_its_parameters(noise):
    """Sampling in a loop that records gradients holds no graph of every step."""
    schedule, t = scrambled(), torch.tensor(0.5, dtype=torch.float64)
    x_t, y = torch.ones(2, 1, 4, dtype=torch.float64), torch.ones(2, 1, 2, dtype=torch.float64)

    def denoise(x_t, t, cond=None):
        return Prediction(x_t)

    assert not DDNM(Downsample(2), y, noise)(denoise, schedule)(x_t, t).x_0.requires_grad
    assert not PiGDM(Downsample(2), y, noise)(denoise, schedule)(x_t, t).x_0.requires_grad
    sampler = Restart(schedule, sigma_min=0.2, sigma_max=1.0)
    assert not sampler.times().requires_grad and not sampler.sample_prior(torch.randn_like, x_t).requires_grad
    (*_, end) = sampler.trajectory(denoise, x_t, torch.randn_like)
    assert not end.x_t.requires_grad

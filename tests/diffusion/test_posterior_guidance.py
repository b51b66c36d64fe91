"""Guidance by measurements against the posterior of Gaussian data, which linear algebra gives."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from src.diffusion.beta_schedules import CosineSchedule
from src.diffusion.denoiser import Prediction
from src.diffusion.operators import Blur, Downsample, Grayscale, Mask
from src.diffusion.posterior_guidance import DDNM, DPS, PiGDM, posterior_variance
from src.diffusion.schedules import expand_like
from src.samplers.ancestral import DDIM, DDPM
from src.samplers.base import DenoiserMemory
from src.samplers.clipping import NoClip
from tests.samplers.registry import sample

pytestmark = pytest.mark.strength(1)

STD = 0.6
# name: (A of the size, shape of a sample)
MEASUREMENTS = {
    "mask": (lambda size: Mask(torch.arange(size.numel()).view(1, 1, *size) % 3 > 0), (2, 7)),
    "average": (lambda size: Downsample(2), (1, 4, 6)),
    "gray": (lambda size: Grayscale(), (3, 2, 3)),
    "blur": (lambda size: Blur(0.6), (1, 3, 5)),
}
POSTERIORS = {"ddnm": DDNM, "pigdm": PiGDM}


class Data:
    """Gaussian data with one standard deviation, and a measurement of it; the exact denoiser without it."""

    def __init__(self, name, noise, randn, batch=1):
        make, self.shape = MEASUREMENTS[name]
        self.operator, self.noise = make(torch.Size(self.shape[1:])), noise
        n = torch.Size(self.shape).numel()
        self.mean = torch.sin(torch.arange(n) + 0.5).double().view(self.shape)
        self.a = torch.stack([self.operator(e.view(1, *self.shape)).flatten() for e in torch.eye(n).double()], 1)
        self.y = self.operator(self.mean + STD * randn(batch, *self.shape))
        # What is not measured, as under a mask, has no noise either.
        self.y = self.y + noise * self.operator(self.operator.pinv(randn(*self.y.shape)))

    def denoise(self, schedule):
        def denoise(x_t, t, cond=None):
            alpha, sigma = (expand_like(v, x_t) for v in schedule.alpha_sigma(t))
            gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
            return Prediction(self.mean + gain * (x_t - alpha * self.mean))

        return denoise

    def posterior(self, alpha, sigma, x_t):
        """Mean (B, N) and covariance of x_0 given x_t and y, from their joint law; sigma = inf for y alone."""
        mean, a, eye = self.mean.flatten(), self.a, torch.eye(self.mean.numel()).double()
        seen = a if x_t is None else torch.cat([a, alpha * eye])
        noise = torch.full((len(a),), self.noise**2).double()
        noise = noise if x_t is None else torch.cat([noise, (sigma**2).expand(len(eye))])
        given = self.y.flatten(1) if x_t is None else torch.cat([self.y.flatten(1), x_t.flatten(1)], 1)
        gain = STD**2 * seen.T @ torch.linalg.pinv(STD**2 * seen @ seen.T + noise.diag(), hermitian=True)
        return mean + (given - seen @ mean) @ gain.T, STD**2 * (eye - gain @ seen)


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("name", MEASUREMENTS)
@pytest.mark.parametrize("method", POSTERIORS)
def test_the_posterior_mean_of_gaussian_data(method, name, noise, schedule, randn):
    data = Data(name, noise, randn, batch=3)
    guided = POSTERIORS[method](data.operator, data.y, noise, sigma_data=STD)(data.denoise(schedule), schedule)
    for t in (0.02, 0.5, 0.97):
        t = torch.tensor(t).double()
        alpha, sigma = schedule.alpha_sigma(t)
        x_t = alpha * data.mean + (alpha**2 * STD**2 + sigma**2).sqrt() * randn(3, *data.shape)
        expected, _ = data.posterior(alpha, sigma, x_t)
        assert_close(guided(x_t, t).x_0.flatten(1), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.most(3)
@pytest.mark.parametrize("method", [*POSTERIORS, "dps"])
def test_a_time_for_each_sample(method, schedule, randn):
    data, times = Data("average", 0.2, randn, batch=3), torch.tensor([0.01, 0.4, 0.95]).double()
    x_t = randn(3, *data.shape)

    def x_0(rows, t):
        guidance = {**POSTERIORS, "dps": DPS}[method](data.operator, data.y[rows], 0.2)
        return guidance(data.denoise(schedule), schedule)(x_t[rows], t).x_0

    each = torch.cat([x_0([i], t) for i, t in enumerate(times)])
    assert_close(x_0([0, 1, 2], times), each, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("name", MEASUREMENTS)
@pytest.mark.parametrize("method", POSTERIORS)
@pytest.mark.parametrize("sampler", [lambda s: DDIM(s, 60), lambda s: DDPM(s, 60)], ids=["ddim", "ddpm"])
def test_samples_are_those_of_the_posterior(sampler, method, name, noise, make_schedule, randn):
    """All moments of first and second order, of 2,000 samples of one y."""
    schedule, data, n = make_schedule("cosine"), Data(name, noise, randn), 2000
    guided = POSTERIORS[method](data.operator, data.y, noise, sigma_data=STD)(data.denoise(schedule), schedule)
    g = torch.Generator().manual_seed(1)

    def draw(x):
        return torch.randn(x.shape, generator=g, dtype=x.dtype)

    x = sample(sampler(schedule), guided, draw, torch.empty(n, *data.shape, dtype=torch.float64)).flatten(1)
    mean, covariance = data.posterior(None, None, None)
    assert_close(x.mean(0), mean[0], rtol=0, atol=5 * STD / n**0.5)
    assert_close(torch.cov(x.T), covariance, rtol=0, atol=5 * STD**2 * (2 / n) ** 0.5 + 0.01)
    if noise == 0:
        assert_close(data.operator(x.view(n, *data.shape)), data.y.expand(n, *data.y.shape[1:]), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_ddnm_agrees_with_the_measurement_whatever_the_denoiser(name, schedule, randn):
    data = Data(name, 0.0, randn, batch=3)
    guided = DDNM(data.operator, data.y)(lambda x_t, t, cond: Prediction(torch.tanh(3 * x_t)), schedule)
    for t in (torch.tensor(0.0), torch.tensor(0.5), torch.tensor(1.0), torch.tensor([0.1, 0.6, 1.0])):
        x_t = randn(3, *data.shape)
        x_0 = guided(x_t, t.double()).x_0
        assert_close(data.operator(x_0), data.y)
        beside = x_0 - torch.tanh(3 * x_t)  # changed only in what is measured
        assert_close(data.operator.pinv(data.operator(beside)), beside)


def test_noise_that_drowns_the_measurement_leaves_the_denoiser_alone(schedule, randn):
    data = Data("average", 1e6, randn)
    for method in (DDNM, PiGDM):
        guided = method(data.operator, data.y, 1e6)(data.denoise(schedule), schedule)
        for t in (0.0, 0.3, 0.9):
            x_t, t = randn(1, *data.shape), torch.tensor(t).double()
            assert_close(guided(x_t, t).x_0, data.denoise(schedule)(x_t, t).x_0, rtol=0, atol=1e-4)


@pytest.mark.parametrize("scale", [0.5, 3.0])
@pytest.mark.parametrize("name", MEASUREMENTS)
def test_dps_is_the_formula(name, scale, schedule, randn):
    """The gradient through an affine denoiser, whose derivative is a number."""
    data, t = Data(name, 0.0, randn, batch=3), torch.tensor(0.4).double()
    alpha, sigma = schedule.alpha_sigma(t)
    x_t = randn(3, *data.shape)
    x_0 = data.denoise(schedule)(x_t, t).x_0
    residual = data.y - data.operator(x_0)
    towards = data.operator.transpose(residual) / expand_like(residual.flatten(1).norm(dim=1), x_t)
    slope = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    guided = DPS(data.operator, data.y, scale=scale)(data.denoise(schedule), schedule)
    assert_close(guided(x_t, t).x_0, x_0 + scale * sigma**2 / alpha * 2 * slope * towards, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("steps", [10, 1000])
def test_dps_is_algorithm_1(steps, randn):
    r"""After a step of DDPM the paper subtracts :math:`\zeta' / \|y - A \hat x_0\|\ \nabla_x \|y - A \hat x_0\|^2`."""
    schedule, data, scale = CosineSchedule(steps), Data("average", 0.0, randn, batch=3), 0.7
    sampler, x_t = DDPM(schedule, steps), randn(3, *data.shape)
    t, s = sampler.noise_levels(torch.tensor([6, 5], dtype=torch.float64) / 10)
    guided, plain = (
        sampler.step(DenoiserMemory(denoise, NoClip()), x_t, t, s, torch.zeros_like)
        for denoise in (
            DPS(data.operator, data.y, scale=scale)(data.denoise(schedule), schedule),
            data.denoise(schedule),
        )
    )
    x = x_t.clone().requires_grad_()
    residual = (data.y - data.operator(data.denoise(schedule)(x, t.t).x_0)).flatten(1)
    (gradient,) = torch.autograd.grad(residual.square().sum(), x)
    beta = 1 - (t.alpha / s.alpha) ** 2
    zeta = scale * beta / (1 - beta) ** 0.5 / residual.detach().norm(dim=1)
    assert_close(guided, plain - expand_like(zeta, x_t) * gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.usefixtures("unchecked")
def test_dps_has_the_same_sum_however_many_steps(make_schedule, randn):
    """Its shift is one of the score, so that short steps shift less each."""
    schedule, data = make_schedule("cosine"), Data("average", 0.0, randn)
    guided = DPS(data.operator, data.y, scale=3.0)(data.denoise(schedule), schedule)
    x_1 = randn(5, *data.shape)

    def distance(steps):
        *_, end = DDIM(schedule, steps).trajectory(guided, x_1, torch.randn_like)
        return (data.operator(end.x_t) - data.y).flatten(1).norm(dim=1)

    *_, plain = DDIM(schedule, 50).trajectory(data.denoise(schedule), x_1, torch.randn_like)
    assert_close(distance(50), distance(200), rtol=0.1, atol=0.02)
    assert (distance(50) < 0.7 * (data.operator(plain.x_t) - data.y).flatten(1).norm(dim=1)).all()


@pytest.mark.parametrize("method", [PiGDM, DPS])
class TestGradients:
    @pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
    def test_a_network_is_differentiated_in_any_mode(self, method, mode, make_schedule, randn):
        """Its derivative is that of finite differences, and nothing is left behind."""
        schedule, data = make_schedule("linear"), Data("average", 0.3, randn, batch=2)
        net = nn.Sequential(nn.Flatten(), nn.Linear(24, 24), nn.Tanh(), nn.Unflatten(1, data.shape)).double()
        guidance, t = method(data.operator, data.y, 0.3, scale=2.0), torch.tensor(0.5).double()
        seen = []

        def denoise(x_t, t, cond):
            seen.append(cond)
            return Prediction(net(x_t) * t / 0.5, x_t)  # a factor of 1 that the gradient needs

        with mode():
            x_t, label, time = randn(2, *data.shape), torch.tensor([1, 2]), t.clone()
            found, variance = guidance(denoise, schedule)(x_t, time, label)
            found, variance, x_t = found + 0, variance + 0, x_t + 0
        assert not found.requires_grad and not variance.requires_grad and torch.equal(variance, x_t)
        assert all(p.grad is None for p in net.parameters()) and torch.equal(seen[0], torch.tensor([1, 2]))

        def log_prob(x):
            return guidance.log_prob(data.y - data.operator(net(x)), schedule, t).sum()

        with torch.no_grad():
            x_t, h = x_t.clone(), 1e-6
            steps = torch.eye(x_t.numel()).double().view(-1, *x_t.shape) * h
            gradient = torch.stack([(log_prob(x_t + e) - log_prob(x_t - e)) / (2 * h) for e in steps]).view_as(x_t)
            alpha, sigma = schedule.alpha_sigma(t)
            assert_close(found.clone(), net(x_t) + 2.0 * sigma**2 / alpha * gradient, rtol=0, atol=1e-6)

    def test_by_default_it_is_the_posterior_without_noise(self, method, make_schedule, randn):
        schedule, data = make_schedule("linear"), Data("average", 0.0, randn, batch=3)
        x_t, t, denoise = randn(3, *data.shape), torch.tensor(0.5).double(), data.denoise(schedule)
        plain, told = method(data.operator, data.y), method(data.operator, data.y, noise=0.0, scale=1.0)
        assert torch.equal(plain(denoise, schedule)(x_t, t).x_0, told(denoise, schedule)(x_t, t).x_0)

    def test_where_nothing_is_added(self, method, make_schedule, randn):
        """Without signal, without noise, and with scale 0, which asks for no gradient either."""
        schedule, data = make_schedule("flow"), Data("average", 0.0, randn, batch=3)
        x_t, denoise = randn(3, *data.shape), data.denoise(schedule)

        def no_graph(x_t, t, cond):
            assert not x_t.requires_grad
            return denoise(x_t, t, cond)

        for t, scale in ((1.0, 1.0), (0.0, 1.0), (0.5, 0.0)):
            t = torch.tensor(t).double()
            found = method(data.operator, data.y, scale=scale)(no_graph, schedule)(x_t, t)
            assert torch.equal(found.x_0, denoise(x_t, t).x_0)
        mixed = torch.tensor([1.0, 0.5, 0.0]).double()
        found = method(data.operator, data.y)(denoise, schedule)(x_t, mixed).x_0
        changed = (found != denoise(x_t, mixed).x_0).flatten(1).any(1)
        assert changed.tolist() == [False, True, False] and found.isfinite().all()

    @pytest.mark.most(3)
    def test_scale(self, method, schedule, randn):
        data, t = Data("mask", 0.2, randn, batch=3), torch.tensor(0.5).double()
        x_t, denoise = randn(3, *data.shape), data.denoise(schedule)
        one, three = (method(data.operator, data.y, 0.2, scale=s)(denoise, schedule)(x_t, t).x_0 for s in (1.0, 3.0))
        plain = denoise(x_t, t).x_0
        assert_close(three - plain, 3 * (one - plain), rtol=1e-9, atol=1e-12)


def test_spread_is_the_variance_of_what_is_left_to_know(schedule):
    """All of it where there is no signal, none where there is no noise."""
    t = torch.tensor([0.0, 0.3, 1.0]).double()
    alpha, sigma = schedule.alpha_sigma(t)
    precision = 1 / STD**2 + (alpha / sigma) ** 2
    assert_close(posterior_variance(schedule, t, STD), 1 / precision, rtol=1e-9, atol=1e-12)

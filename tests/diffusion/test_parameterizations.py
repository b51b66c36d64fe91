import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal
from torch.testing import assert_close

from src.diffusion import weightings
from src.diffusion.beta_schedules import CosineSchedule, ExponentialSchedule, LinearSchedule
from src.diffusion.denoiser import Denoiser
from src.diffusion.discrete_schedules import VESDE, EDMSchedule
from src.diffusion.losses import MSE
from src.diffusion.parameterizations import EDM, PosteriorMean, posterior_coefficients
from src.diffusion.schedules import expand_like
from tests.diffusion.expected import ALL, ONE, SHAPES, SINGULAR, STEPS, TRUTHS
from tests.fixtures import ENDS_IN_NOISE

pytestmark = pytest.mark.strength(1, "name", "part")

T = torch.tensor([1e-3, 0.1234, 0.5, 0.9], dtype=torch.float64)
ALLOWED = [(s, p) for s in ALL for p in TRUTHS if not (s in ENDS_IN_NOISE and p in SINGULAR)]
REFUSED = [(s, p) for s in ENDS_IN_NOISE for p in SINGULAR]


class Fixed(nn.Module):
    """Puts out what it is told, and remembers what it was given."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x, c_noise, cond):
        self.given = x, c_noise, cond
        return self.output


# ---- what the network's output means ----


@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.parametrize(("name", "part"), ALLOWED)
def test_true_output_gives_the_truth(name, part, data, randn):
    """The data, and with it the noise, v and the score of q(x_t | x_0), the last by differentiating its density."""
    schedule, (parameterization, truth) = ALL[name](), TRUTHS[part]
    x_0, eps = randn(4, *data), randn(4, *data)
    alpha, sigma = (expand_like(v, x_0) for v in schedule.alpha_sigma(T))
    x_t = (alpha * x_0 + sigma * eps).requires_grad_()
    net = Fixed(truth(schedule, T, x_0, eps))
    x_hat = Denoiser(net, schedule, parameterization)(x_t, T).x_0.detach()
    error = 1e-7 if part == "posterior_mean" else 1e-10
    assert_close(x_hat, x_0, rtol=0, atol=error)

    power = (alpha**2 + sigma**2).sqrt()
    (score,) = torch.autograd.grad(Normal(alpha * x_0, sigma).log_prob(x_t).sum(), x_t)
    x_t = x_t.detach()
    error *= float(1 + (alpha / sigma).max())  # an error of x_0, in units of the noise
    eps_hat = (x_t - alpha * x_hat) / sigma
    v_hat = (alpha * eps_hat - sigma * x_hat) / power
    assert_close(eps_hat, eps, rtol=0, atol=error)
    assert_close(v_hat, (alpha * eps - sigma * x_0) / power, rtol=0, atol=error)
    assert_close(-eps_hat, sigma * score, rtol=0, atol=error)


@pytest.mark.parametrize(("name", "part"), [(s, p) for s, p in ALLOWED if p not in SINGULAR])
@pytest.mark.parametrize("data", SHAPES[::3])
def test_true_output_gives_the_data_at_the_end(name, part, data, randn):
    """At t = 1, pure noise included, for the whole batch at once."""
    schedule, (parameterization, truth) = ALL[name](), TRUTHS[part]
    x_0, eps = randn(4, *data), randn(4, *data)
    x_t = schedule.add_noise(x_0, ONE, eps)
    if part.startswith("edm") and name in ENDS_IN_NOISE:
        output = x_0 / parameterization.sigma_data  # the limit of table 1, which is stated for x_t / alpha
    else:
        output = truth(schedule, ONE, x_0, eps)
    x_hat = Denoiser(Fixed(output), schedule, parameterization)(x_t, ONE).x_0
    assert_close(x_hat, x_0, rtol=0, atol=1e-7)


@pytest.mark.parametrize("part", TRUTHS)
def test_outputs_of_ve_schedules_at_their_first_times(part, randn):
    """Where the noise is a thousandth of the data and less."""
    schedule, (parameterization, truth) = EDMSchedule(STEPS), TRUTHS[part]
    x_0, eps, t = randn(3, 2, 3), randn(3, 2, 3), torch.tensor([1e-5, 4e-4, 2e-3], dtype=torch.float64)
    net = Fixed(truth(schedule, t, x_0, eps))
    assert_close(Denoiser(net, schedule, parameterization)(schedule.add_noise(x_0, t, eps), t).x_0, x_0)


# ---- what the network is given ----


@pytest.mark.strength(2)
@pytest.mark.parametrize(("name", "part"), ALLOWED)
def test_coefficients_of_the_input(name, part):
    """Unit variance for data of unit variance, or of sigma_data; told 1000 t, or 250 log(sigma / alpha)."""
    schedule, parameterization = ALL[name](), TRUTHS[part][0]
    alpha, sigma = schedule.alpha_sigma(T)
    coefficients = parameterization.preconditioning(schedule, T)
    std = getattr(parameterization, "sigma_data", 1.0)
    assert_close(coefficients.c_in**2 * (alpha**2 * std**2 + sigma**2), torch.ones_like(T), rtol=1e-12, atol=0)
    told = 250 * torch.log(sigma / alpha) if part.startswith("edm") else 1000 * T
    assert_close(coefficients.c_noise, told, rtol=0, atol=1e-8)


def test_network_input(randn):
    net, label = Fixed(torch.zeros(4, 1, 20_000).double()), torch.tensor([0, 1, 2, -1])
    for name, part in (("linear", "v"), ("ve_sde", "edm"), ("flow", "flow"), ("sub_vp_sde", "eps")):
        schedule, (parameterization, _) = ALL[name](), TRUTHS[part]
        std = getattr(parameterization, "sigma_data", 1.0)
        x_t = schedule.add_noise(std * randn(4, 1, 20_000), T, randn(4, 1, 20_000))
        Denoiser(net, schedule, parameterization)(x_t, T, label)
        x, c_noise, cond = net.given
        assert_close(x.var((1, 2)), torch.ones(4).double(), rtol=0, atol=5 * (2 / 20_000) ** 0.5)
        assert_close(c_noise, parameterization.preconditioning(schedule, T).c_noise.float())
        assert torch.equal(cond, label)


# ---- EDM ----


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 2.3])
@pytest.mark.parametrize("schedule", [EDMSchedule(), VESDE()])
def test_edm_equals_table_1(schedule, sigma_data):
    t = torch.linspace(0.001, 1, 50, dtype=torch.float64)
    sigma = schedule.alpha_sigma(t)[1].numpy()
    mine = EDM(sigma_data).preconditioning(schedule, t)
    both = sigma**2 + sigma_data**2
    assert_close(mine.c_skip, torch.from_numpy(sigma_data**2 / both), rtol=1e-12, atol=0)
    assert_close(mine.c_out, torch.from_numpy(sigma * sigma_data / np.sqrt(both)), rtol=1e-12, atol=0)
    assert_close(mine.c_in, torch.from_numpy(1 / np.sqrt(both)), rtol=1e-12, atol=0)
    assert_close(mine.c_noise, torch.from_numpy(1000 * np.log(sigma) / 4), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
def test_edm_targets(name, sigma_data):
    """Inputs and targets have unit variance, and c_skip minimizes the weight of the network's errors, at every time."""
    schedule, t = ALL[name](), torch.cat([T, ONE[None]])
    alpha, sigma = schedule.alpha_sigma(t)
    _, c_skip, c_out, _ = EDM(sigma_data).preconditioning(schedule, t)

    def variance(skip):
        """The variance of x_0 - skip x_t."""
        return ((1 - skip * alpha) * sigma_data) ** 2 + (skip * sigma) ** 2

    assert_close(variance(c_skip) / c_out**2, torch.ones_like(t), rtol=1e-10, atol=0)
    assert (variance(c_skip) <= torch.stack([variance(c_skip * 1.01 + 1e-3), variance(c_skip * 0.99 - 1e-3)])).all()


def test_edm_on_data(randn):
    """Inputs and targets have unit variance in samples too; five standard errors."""
    n, schedule, part = 20_000, EDMSchedule(), EDM(0.5)
    x_0, eps = 0.5 * randn(4, n), randn(4, n)
    x_t = schedule.add_noise(x_0, T, eps)
    c_in, c_skip, c_out, _ = (expand_like(v, x_0) for v in part.preconditioning(schedule, T))
    for value in c_in * x_t, (x_0 - c_skip * x_t) / c_out:
        assert_close(value.var(1), torch.ones(4).double(), rtol=0, atol=5 * (2 / n) ** 0.5)


# ---- the mean of the step back ----


@pytest.mark.parametrize(
    "make", [LinearSchedule, CosineSchedule, ExponentialSchedule, lambda: LinearSchedule(zero_terminal_snr=True)]
)
def test_mean_has_the_coefficients_of_ddpm(make):
    """Equation 7 of the paper, from the betas alone, at every k."""
    schedule = make()
    betas = np.linspace(1e-4, 0.02, 1000) if make is LinearSchedule else schedule.betas.numpy()
    bar = np.cumprod(1 - betas)
    before = np.concatenate([[1.0], bar[:-1]])
    of_x_0 = torch.from_numpy(np.sqrt(before) * betas / (1 - bar))
    of_x_t = torch.from_numpy(np.sqrt(1 - betas) * (1 - before) / (1 - bar))

    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    a, b = posterior_coefficients(schedule, t - 1 / 1000, t)
    assert_close(torch.stack([a, b]), torch.stack([of_x_t, of_x_0]), rtol=1e-9, atol=1e-12)
    coefficients = PosteriorMean(1000).preconditioning(schedule, t)
    assert_close(coefficients.c_out, 1 / of_x_0, rtol=1e-9, atol=0)
    assert_close(coefficients.c_skip, -of_x_t / of_x_0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_mean_within_the_first_step(name):
    """Finite down to t = 0, and the network predicts the data wherever the step ends in it."""
    schedule = ALL[name]()
    coefficients = PosteriorMean(STEPS).preconditioning(
        schedule, torch.tensor([0, 1e-7, 5e-4, 1e-3], dtype=torch.float64)
    )
    assert all(v.isfinite().all() for v in coefficients)
    if name != "learned":
        assert_close(coefficients.c_out, torch.ones(4).double(), rtol=0, atol=1e-12)
        assert_close(coefficients.c_skip, torch.zeros(4).double(), rtol=0, atol=1e-12)


# ---- where they are singular ----


@pytest.mark.parametrize(("name", "part"), REFUSED)
def test_singular_ones_are_refused(name, part):
    reason = rf"parameterization={part} divides by alpha, which is 0\.0e\+00 at t = 1 on this schedule"
    with pytest.raises(ValueError, match=rf"{reason}; use parameterization=v, flow, edm or x0"):
        Denoiser(nn.Identity(), ALL[name](), TRUTHS[part][0])


@pytest.mark.parametrize(("name", "part"), ALLOWED)
def test_others_are_finite_at_both_ends(name, part, randn):
    """Coefficients, predictions, and gradients by the network's weights, by x_t and by a learned schedule's weights."""
    schedule, parameterization = ALL[name]().requires_grad_(), TRUTHS[part][0]
    t = torch.tensor([0, 1e-5, 1.0], dtype=torch.float64)
    assert all(v.isfinite().all() for v in parameterization.preconditioning(schedule, t))

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double())

        def forward(self, x, c_noise, cond):
            return x @ self.weight

    denoiser = Denoiser(Linear(), schedule, parameterization)
    x_0, eps = randn(len(t), 1, 4), randn(len(t), 1, 4)
    x_t = schedule.add_noise(x_0, t, eps).detach().requires_grad_()
    denoiser(x_t, t).x_0.square().sum().backward()
    for weighting in (
        weightings.uniform_weighting,
        weightings.simple_weighting,
        weightings.edm_weighting,
        weightings.likelihood_weighting,
    ):
        later = t.clamp(min=1e-5)
        MSE(weighting)(denoiser, x_0, later, eps).sum().backward()
    for value in (x_t, *denoiser.parameters()):
        assert value.grad.isfinite().all()
        assert value.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EDM(0.0), "parameterization.sigma_data must be > 0, got 0.0"),
        (lambda: PosteriorMean(0), "parameterization.steps must be >= 1, got 0"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()

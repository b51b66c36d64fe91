"""The log-density along the probability-flow ODE equals the true one, and its bits are counted rightly."""

import math

import pytest
import torch
from torch.distributions import Normal
from torch.testing import assert_close

from src.diffusion import beta_schedules, discrete_schedules, schedules
from src.diffusion.likelihood import bits_per_dimension, dequantize, divergence, last_time, ode_log_likelihood
from tests.diffusion.reference import SHAPES, Mixture

pytestmark = pytest.mark.strength(1)

ONE = torch.tensor(1.0, dtype=torch.float64)
FINE = {"rtol": 1e-7, "atol": 1e-7}
# With so little data left at t = 1 that the prior is the law of x_1 to 1e-3.
ENDS_AS_NOISE = {
    "vp_sde": lambda: schedules.VPSDE(beta_max=40.0),
    "sub_vp_sde": lambda: schedules.SubVPSDE(beta_max=40.0),
    "ve_sde": lambda: discrete_schedules.VESDE(sigma_max=2000.0),
    "edm": lambda: discrete_schedules.EDMSchedule(sigma_max=2000.0),
    "cosine": beta_schedules.CosineSchedule,
    "flow": schedules.FlowSchedule,
    "laplace": schedules.LaplaceSchedule,
}


def signs(*shape):
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(1)).double() * 2 - 1


def model_log_density(truth, schedule, x_0, sigma_max=1e3):
    """The density that the ODE makes of its prior, for Gaussian data: an affine map of each element."""
    alpha, sigma = schedule.alpha_sigma(ONE)
    level = min(float(sigma / alpha), sigma_max)  # of y = x / alpha
    stretch = (truth.std**2 + level**2).sqrt() / truth.std
    y = truth.mean + (x_0 - truth.mean) * stretch
    prior = Normal(torch.zeros_like(y), level)
    return (prior.log_prob(y) + stretch.log()).flatten(1).sum(1)


@pytest.mark.most(4)
@pytest.mark.usefixtures("unchecked")
def test_gaussian_data_of_every_schedule(schedule, gaussian, randn):
    truth = gaussian((1, 3))
    x_0 = truth.mean + truth.std * randn(3, 1, 3)
    # Random signs are exact here, for the denoiser treats each element apart. Under a prior of 0.1 densities are large.
    tolerance = 1e-6 if isinstance(schedule, discrete_schedules.AdditiveSchedule) else 1e-5
    found = ode_log_likelihood(
        truth.denoiser(schedule), schedule, x_0, signs(1, 3, 1, 3), rtol=tolerance, atol=tolerance
    )
    # sigma_min = 1e-3 blurs the data by a part in 10^6 of its variance.
    assert_close(found.log_density, model_log_density(truth, schedule, x_0), rtol=0, atol=2e-4)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("sigma_max", [1e4, 1e6])
@pytest.mark.parametrize(
    "make",
    [
        schedules.LaplaceSchedule,
        lambda: schedules.LaplaceSchedule(scale=0.2),
        lambda: schedules.VPSDE(beta_max=4000.0),  # alpha is 0 long before t = 1
        lambda: beta_schedules.LinearSchedule(zero_terminal_snr=True),
        schedules.FlowSchedule,
    ],
)
def test_noise_levels_beyond_what_a_time_resolves(make, sigma_max, gaussian, randn):
    schedule, truth = make(), gaussian((1, 3))
    x_0 = truth.mean + truth.std * randn(3, 1, 3)
    found = ode_log_likelihood(
        truth.denoiser(schedule), schedule, x_0, signs(1, 3, 1, 3), sigma_max=sigma_max, rtol=1e-5, atol=1e-5
    )
    expected = Normal(truth.mean, truth.std).log_prob(x_0).flatten(1).sum(1)
    t = last_time(schedule, sigma_max)
    level = float((-schedule.log_snr(t) / 2).exp())
    assert level <= 1.001 * sigma_max and level > 10
    # What is left of the data at the last level, and the rounding of the times there.
    assert_close(found.log_density, expected, rtol=0, atol=1e-3 + 3 / level)
    assert_close(found.log_density, model_log_density(truth, schedule, x_0, level), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("scale", "k"), [(0.5, 41), (1.0, 40)])
def test_the_last_time(scale, k):
    """That of the noise level, if float64 resolves it; on a Laplace schedule the log-SNR near 1 is b log(2 - 2 t).

    There the next number below t = 1 - 2^-k changes it by b 2^(k - 53), which is below 2e-4 up to k = 41 or 40.
    """
    schedule = schedules.LaplaceSchedule(scale=scale)
    assert last_time(schedule, 1e12).item() == 1 - 2.0**-k
    assert last_time(schedule, 10.0) == schedule.inverse_log_snr(-2 * (10 * ONE).log())


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (2.0, 1.0), (1.0, 1.0), (1e-3, math.nan)])
def test_refuses_bounds_that_do_not_grow(bounds, randn):
    with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
        ode_log_likelihood(lambda x_t, t: x_t, schedules.FlowSchedule(), randn(1, 2), None, *bounds)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("process", ["vp_sde", "edm", "flow"])
def test_gaussian_data_of_every_shape(process, shape, gaussian, randn):
    """Where only noise is left at t = 1 it is the density of the data itself.

    Random signs are exact here as well, for the denoiser treats each element apart. At sigma / alpha = 1000, where the
    flow ends, an element's mean of up to 0.5 is still 0.0005 standard deviations.
    """
    schedule, truth = ENDS_AS_NOISE[process](), gaussian(shape)
    x_0 = truth.mean + truth.std * randn(3, *shape)
    found = ode_log_likelihood(truth.denoiser(schedule), schedule, x_0, signs(2, 3, *shape))
    expected = Normal(truth.mean, truth.std).log_prob(x_0).flatten(1).sum(1)
    assert_close(found.log_density, expected, rtol=0, atol=2e-3 * truth.mean.numel() ** 0.5)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("process", "shape"),
    [("vp_sde", (2,)), ("edm", (2,)), ("flow", (1, 4)), ("cosine", (1, 2, 2))]
    + [pytest.param(name, (2,), marks=pytest.mark.slow) for name in ("ve_sde", "cosine", "flow", "laplace")],
)
def test_mixture(process, shape):
    schedule, truth = ENDS_AS_NOISE[process](), Mixture(shape)
    x_0, _ = truth.draw(5, torch.Generator().manual_seed(2))
    found = ode_log_likelihood(truth.denoiser(schedule), schedule, x_0, rtol=1e-5, atol=1e-5)
    assert_close(found.log_density, truth.log_density(x_0), rtol=0, atol=4e-3)


@pytest.mark.usefixtures("unchecked")
def test_the_density_of_a_mixture_integrates_to_one():
    """On a grid that covers it, so that no constant is amiss."""
    schedule, truth = schedules.FlowSchedule(), Mixture((1,), modes=2)
    x = torch.linspace(-3.5, 4.5, 161, dtype=torch.float64)[:, None]
    found = ode_log_likelihood(truth.denoiser(schedule), schedule, x, rtol=1e-6, atol=1e-6)
    assert torch.trapezoid(found.log_density.exp(), x[:, 0]).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_hutchinson_within_its_error_bars():
    """The same point many times, each with a probe of its own: the mean is the exact trace's."""
    schedule, truth, n = ENDS_AS_NOISE["vp_sde"](), Mixture((1, 2, 2)), 500
    x_0 = truth.draw(1, torch.Generator().manual_seed(3))[0]
    exact = ode_log_likelihood(truth.denoiser(schedule), schedule, x_0).log_density
    many = x_0.expand(n, 1, 2, 2)
    one = ode_log_likelihood(truth.denoiser(schedule), schedule, many, signs(1, n, 1, 2, 2)).log_density
    error = one.std() / n**0.5
    assert one.std() > 0.05 and (one.mean() - exact).abs() < 4 * error
    several = ode_log_likelihood(truth.denoiser(schedule), schedule, many, signs(4, n, 1, 2, 2)).log_density
    assert several.std() == pytest.approx(one.std().item() / 2, rel=0.2), "four probes halve it"


@pytest.mark.parametrize("shape", SHAPES)
def test_divergence(shape, randn):
    """The divergence of a map with a known dense Jacobian."""
    n = math.prod(shape)
    matrix, x = randn(n, n), randn(3, *shape).requires_grad_()
    y = ((x.flatten(1) @ matrix.T) ** 2 / 2).view_as(x)
    jacobian = (x.flatten(1) @ matrix.T)[:, :, None] * matrix
    assert_close(divergence(y, x, None), jacobian.diagonal(dim1=1, dim2=2).sum(1).detach())
    probes = signs(2, 3, *shape)
    v = probes.flatten(2)
    expected = torch.einsum("pbi,bij,pbj->pb", v, jacobian.detach(), v).mean(0)
    assert_close(divergence(y, x, probes), expected)


@pytest.mark.most(1)
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("probes", [None, 2])
def test_evaluations_are_counted(probes, make_schedule, gaussian, randn):
    schedule, truth, calls = make_schedule("cosine"), gaussian((1, 4)), []

    def denoise(x_t, t):
        calls.append(float(t))
        return truth.denoiser(schedule)(x_t, t)

    rough = ode_log_likelihood(denoise, schedule, randn(2, 1, 4), probes and signs(probes, 2, 1, 4), rtol=1e-3)
    assert rough.nfe == len(calls) > 10
    assert 0 < min(calls) < 1e-3 and 0.99 < max(calls) <= 1
    calls.clear()
    fine = ode_log_likelihood(denoise, schedule, randn(2, 1, 4), probes and signs(probes, 2, 1, 4), **FINE)
    assert fine.nfe == len(calls) > 1.5 * rough.nfe


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_single_precision_and_no_gradients_around_it(mode, gaussian, randn):
    """A network's own: single precision, called where gradients are off."""
    schedule, truth = beta_schedules.CosineSchedule(), gaussian((1, 2, 3))
    x_0 = (truth.mean + truth.std * randn(3, 1, 2, 3)).float()
    gain = torch.nn.Parameter(torch.ones(()))
    with mode():
        found = ode_log_likelihood(lambda x_t, t: gain * truth.denoiser(schedule)(x_t, t).float(), schedule, x_0 + 0)
    assert found.log_density.dtype == torch.float32 and not found.log_density.requires_grad
    assert_close(found.log_density.double(), model_log_density(truth, schedule, x_0.double()), rtol=0, atol=5e-3)
    assert gain.grad is None


# ---- bits ----


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_levels", [2, 10, 256])
def test_uniform_levels_cost_the_logarithm_of_their_number(num_levels, shape):
    """Dequantized they are uniform on an interval; 256 levels cost 8 bits."""
    n = math.prod(shape)
    width = num_levels * 2 / (num_levels - 1)
    log_density = torch.tensor([-n * math.log(width)])
    assert bits_per_dimension(log_density, n, num_levels).item() == pytest.approx(math.log2(num_levels))
    assert bits_per_dimension(log_density, n).item() == pytest.approx(math.log2(width))


@pytest.mark.parametrize("num_levels", [2, 256])
def test_dequantize_spreads_evenly_over_a_level(num_levels):
    levels = torch.linspace(-1, 1, num_levels, dtype=torch.float64)
    x = levels.repeat(40_000 // num_levels)
    found = dequantize(x, num_levels, torch.Generator().manual_seed(0))
    assert torch.equal(levels[((found + 1) / 2 * (num_levels - 1)).round().long()], x), "rounding undoes it"
    u = (found - x) * (num_levels - 1) / 2 + 0.5
    assert 0 <= u.min() < 1e-3 and 1 - 1e-3 < u.max() <= 1
    for power in (1, 2, 3):
        assert u.pow(power).mean().item() == pytest.approx(1 / (power + 1), abs=5 * 0.3 / len(x) ** 0.5)
    again = dequantize(x, num_levels, torch.Generator().manual_seed(0))
    assert torch.equal(found, again) and not torch.equal(
        found, dequantize(x, num_levels, torch.Generator().manual_seed(1))
    )


@pytest.mark.usefixtures("unchecked")
def test_bits_of_rounded_gaussian_data():
    """All steps together: levels of a rounded Gaussian, dequantized, cost their entropy and hardly more."""
    schedule, num_levels, n = schedules.FlowSchedule(), 256, 2000
    mean, std = 0.1, 0.2

    def denoise(x_t, t):
        alpha, sigma = schedule.alpha_sigma(t)
        return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x_t - alpha * mean)

    levels = torch.linspace(-1, 1, num_levels, dtype=torch.float64)
    edges = torch.cat([levels - 1 / 255, (levels[-1:] + 1 / 255)])
    p = Normal(mean, std).cdf(edges).diff()
    p = p / p.sum()
    entropy = -(p * p.clamp(min=1e-300).log2()).sum()
    g = torch.Generator().manual_seed(0)
    x = levels[torch.multinomial(p, n, replacement=True, generator=g)].view(n // 4, 1, 4)
    found = ode_log_likelihood(denoise, schedule, dequantize(x, num_levels, g), signs(1, n // 4, 1, 4))
    bits = bits_per_dimension(found.log_density, 4, num_levels)
    assert bits.mean().item() == pytest.approx(entropy.item(), abs=4 * bits.std().item() / (n / 4) ** 0.5)
    of_these = -p[((x + 1) / 2 * 255).round().long()].log2().flatten(1).mean(1)
    difference = bits - of_these
    assert difference.mean().abs() < 4 * difference.std() / (n / 4) ** 0.5 + 1e-3, "the levels drawn, one by one"

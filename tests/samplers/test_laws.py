"""Stochastic samplers draw from the law of the data.

On Gaussian data the best denoiser is affine, and with it every sampler an affine function of the noise that it draws:
its law is computed here exactly, without drawing. It approaches that of the data with the order below, and samples
that are drawn have it within their standard errors. On a mixture, samples have its weights and its distribution.
"""

import math

import pytest
import torch

from src.samplers.sde import AnnealedLangevin
from tests.fixtures import ENDS_IN_NOISE, SCHEDULES
from tests.samplers.registry import (
    AFFINE,
    DETERMINISTIC,
    GRIDS,
    SAMPLERS,
    SHAPES,
    STOCHASTIC,
    one_hot,
    sample,
    seeded,
    tensor,
)

pytestmark = [pytest.mark.usefixtures("unchecked"), pytest.mark.strength(1, "name", "schedule_name")]

# The weak order: what is wrong with the variance falls with this power of the number of steps.
ORDER = {
    "ddpm": 1, "ddpm large": 1, "ddim half": 1, "ddim ancestral": 1, "heun churn": 2, "restart": 2, "dpmpp_2m_sde": 2,
    "dpmpp_2m_sde half": 2, "dpmpp_3m_sde": 2, "euler_maruyama": 1, "predictor_corrector_ald": 1,
    "annealed_langevin": 1, "dpm_2 churn": 2, "dpmpp_sde": 2, "dpmpp_sde half": 2,
}  # fmt: skip
# Of the distribution of a mixture after 60 steps: measured once with 400,000 samples, as the largest error of the
# cumulative distribution. 0.025 for the others of the first order, and 0.004 for those of the second.
BIAS = {"annealed_langevin": 0.054, "euler_maruyama": 0.012}


def make(name, schedule, steps):
    """With equal steps in log-SNR, or of t where the rates of the SDE must not vary within a step."""
    options = {"steps_per_restart": steps // 5} if name == "restart" else {}
    grid = "uniform" if name == "euler_maruyama" else "log_snr"
    return STOCHASTIC[name](schedule, steps, GRIDS[grid], **options)


def law(sampler, truth, mean, std):
    """Mean and variance of every element of a sample, begun at the law with this mean and standard deviation.

    Row 0 of the batch gets no noise, which makes it the mean; row 1 only the noise of x_1, as a one, which makes what
    it adds to the mean the coefficient of that noise; row k only draw k - 1.
    """
    draws = sampler.steps_per_level + 1 if isinstance(sampler, AnnealedLangevin) else 2
    rows = draws * len(sampler.times()) + 1
    x_1 = mean.expand(rows, *mean.shape).clone()
    x_1[1] += std
    *_, end = sampler.trajectory(truth.denoiser(sampler.schedule), x_1, one_hot(2))
    return end.x_t[0], ((end.x_t[1:] - end.x_t[0]) ** 2).sum(0)


def errors_of(name, schedule, truth, counts):
    """Error of the mean with the most steps, and relative errors of the variance by number of steps; x_1 is exact."""
    laws = [law(make(name, schedule, steps), truth, *truth.moments(schedule, 1.0)) for steps in counts]
    return (laws[-1][0] - truth.mean).abs().max(), [float((v / truth.std**2 - 1).abs().max()) for _, v in laws]


@pytest.mark.parametrize("schedule_name", SCHEDULES)
@pytest.mark.parametrize("name", [name for name in AFFINE if name != "euler_maruyama"])
def test_law_converges(name, schedule_name, make_schedule, gaussian):
    """The mean is right at once, but for Langevin dynamics; what is wrong with the variance falls with the order."""
    mean, (few, many) = errors_of(name, make_schedule(schedule_name), gaussian((5,)), (40, 80))
    assert mean < (0.03 if name == "annealed_langevin" else 1e-12)
    assert many < {"annealed_langevin": 0.4}.get(name, {1: 0.16, 2: 0.012}[ORDER[name]])
    assert math.log2(few / many) > ORDER[name] - 0.35


@pytest.mark.most(3)
@pytest.mark.parametrize("schedule_name", [name for name in SCHEDULES if name not in ENDS_IN_NOISE])
def test_law_of_euler_maruyama_converges(schedule_name, make_schedule, gaussian):
    """With the first order, if from some hundred steps on; two errors may cancel before."""
    mean, (few, many) = errors_of("euler_maruyama", make_schedule(schedule_name), gaussian((5,)), (200, 400))
    assert mean < 4e-3
    assert many < (0.05 if schedule_name in ("constant", "sigmoid") else 0.005)
    assert many < 0.7 * few or many < 0.002


@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.parametrize("name", AFFINE)
def test_samples_have_that_law(name, data, make_schedule, gaussian):
    """From pure noise: means, variances and correlations of 2,000 samples within five standard errors of the law.

    A schedule of another kind for each shape. That elements are independent also shows that no draw is used twice.
    """
    n, start = 2000, ["cosine", "ve_sde", "sub_vp_sde", "linear", "scaled_linear"][SHAPES.index(data)]
    truth, sampler = gaussian(data), make(name, make_schedule(start), 15)
    _, sigma = sampler.schedule.alpha_sigma(tensor(1.0))
    mean, variance = law(sampler, truth, torch.zeros_like(truth.mean), sigma)
    x = sample(sampler, truth.denoiser(sampler.schedule), seeded(1), torch.empty(n, *data, dtype=torch.float64))
    z = ((x - mean) / variance.sqrt()).flatten(1)
    assert z.mean(0).abs().max() < 5 / n**0.5
    assert (z.var(0) - 1).abs().max() < 5 * (2 / n) ** 0.5
    assert (z.T.corrcoef() - torch.eye(z.shape[1])).abs().max() < 5 / n**0.5


@pytest.mark.parametrize("schedule_name", ["cosine", "linear", "ve_sde"])
@pytest.mark.parametrize("name", [*DETERMINISTIC, *AFFINE])
def test_temperature_scales_the_deviation_from_the_mean(name, schedule_name, make_schedule, gaussian):
    """On Gaussian data, whose best denoiser is affine: x(tau) = x(0) + tau (x(1) - x(0)), with the same draws."""
    truth, schedule = gaussian((5,)), make_schedule(schedule_name)

    def draw(temperature):
        grid = GRIDS["uniform" if name == "euler_maruyama" else "log_snr"]
        sampler = SAMPLERS[name](schedule, 12, grid, temperature=temperature)
        x = torch.empty(3, 5, dtype=torch.float64)
        return sample(sampler, truth.denoiser(schedule), seeded(1), x)

    none, half, all_ = draw(0.0), draw(0.5), draw(1.0)
    torch.testing.assert_close(half, none + 0.5 * (all_ - none), rtol=1e-9, atol=1e-9)
    assert (all_ - none).abs().min() > 1e-3


@pytest.mark.parametrize(
    ("schedule_name", "name"),
    [(s, n) for s in ("vp_sde", "flow", "ve_sde") for n in AFFINE if n != "euler_maruyama" or s != "flow"],
)
def test_mixture(name, schedule_name, make_schedule, mixture, gaussian):
    """Weights and distribution along the row of modes, and variance across it, after 60 steps.

    The distribution within the distance of Kolmogorov and Smirnov that one of a thousand samples exceeds, and the
    weights within four standard errors, each plus the bias above; the variance within five of the law of the Gaussian.
    """
    truth, n = mixture((2,)), 10_000
    schedule = make_schedule(schedule_name)
    sampler = make(name, schedule, 60)
    x = sample(sampler, truth.denoiser(schedule), seeded(2), torch.empty(n, 2, dtype=torch.float64))

    bias = BIAS.get(name, {1: 0.025, 2: 0.004}[ORDER[name]])
    y = truth.along(x).sort().values
    distance = (truth.cdf(schedule, y, 0.0) - (torch.arange(n) + 0.5) / n).abs().max()
    assert distance < 1.95 / n**0.5 + bias

    between = (truth.places[1:] + truth.places[:-1]) / 2
    shares = truth.cdf(schedule, between, 0.0).diff(prepend=tensor([0.0]), append=tensor([1.0]))
    found = torch.bucketize(y, between).bincount(minlength=3) / n
    assert ((found - shares).abs() < 4 * (shares * (1 - shares) / n).sqrt() + bias).all()

    across = gaussian((1,))
    across.mean, across.std = torch.zeros(1, dtype=torch.float64), torch.full((1,), truth.std, dtype=torch.float64)
    _, sigma = schedule.alpha_sigma(tensor(1.0))
    _, variance = law(sampler, across, across.mean, sigma)
    z = x @ (truth.direction.flip(0) * tensor([-1.0, 1.0])) / variance.sqrt()
    assert z.mean().abs() < 5 / n**0.5
    assert (z.var() - 1).abs() < 5 * (2 / n) ** 0.5

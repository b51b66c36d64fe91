"""Every schedule, a learned one among them, and what each parameterization's network should put out, written apart."""

import torch

from src.diffusion import parameterizations as p
from src.diffusion.learned_schedule import LearnedSchedule
from src.diffusion.schedules import expand_like
from tests.fixtures import SCHEDULES

SHAPES = [(1, 7), (3, 5), (1, 4, 4), (3, 4, 6)]
STEPS = 1000
ONE = torch.tensor(1.0, dtype=torch.float64)


def wavy():
    """A learned schedule that is far from a straight line, and from its start."""
    schedule, g = LearnedSchedule(hidden=16), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in schedule.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=g))
    return schedule.requires_grad_(False)


ALL = {**SCHEDULES, "learned": wavy}


def posterior_mean(schedule, s, t, x_0, x_t):
    """The mean of x_s, from Bayes' rule for q(x_s | x_0) and q(x_t | x_s)."""
    alpha_s, sigma_s = (expand_like(v, x_0) for v in schedule.alpha_sigma(s))
    alpha_t, sigma_t = (expand_like(v, x_0) for v in schedule.alpha_sigma(t))
    gain, prior = alpha_t / alpha_s, sigma_s**2
    added = sigma_t**2 - gain**2 * prior
    return (added * alpha_s * x_0 + prior * gain * x_t) / (added + gain**2 * prior)


def edm_output(sigma_data):
    """Table 1 of the paper, for y = x_t / alpha with the noise level sigma / alpha."""

    def output(schedule, t, x_0, eps):
        alpha, sigma = (expand_like(v, x_0) for v in schedule.alpha_sigma(t))
        y, level = x_0 + sigma / alpha * eps, sigma / alpha
        c_skip = sigma_data**2 / (level**2 + sigma_data**2)
        c_out = level * sigma_data / (level**2 + sigma_data**2).sqrt()
        return (x_0 - c_skip * y) / c_out

    return output


def v(schedule, t, x_0, eps):
    alpha, sigma = (expand_like(value, x_0) for value in schedule.alpha_sigma(t))
    return (alpha * eps - sigma * x_0) / (alpha**2 + sigma**2).sqrt()


def mean(schedule, t, x_0, eps):
    return posterior_mean(schedule, (t - 1 / STEPS).clamp(min=0), t, x_0, schedule.add_noise(x_0, t, eps))


# name: (parameterization, what its network should put out given schedule, t, x_0, eps)
TRUTHS = {
    "eps": (p.Eps(), lambda schedule, t, x_0, eps: eps),
    "score": (p.Score(), lambda schedule, t, x_0, eps: -eps),
    "x0": (p.X0(), lambda schedule, t, x_0, eps: x_0),
    "v": (p.V(), v),
    "flow": (p.Flow(), lambda schedule, t, x_0, eps: eps - x_0),
    "edm": (p.EDM(0.5), edm_output(0.5)),
    "edm_1.3": (p.EDM(1.3), edm_output(1.3)),
    "posterior_mean": (p.PosteriorMean(STEPS), mean),
}
SINGULAR = ("eps", "score")

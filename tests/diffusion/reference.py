"""Denoisers whose truth is known: any function as one, and the exact one of a labeled Gaussian mixture."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from src.diffusion.denoiser import Denoiser
from src.diffusion.parameterizations import X0, Parameterization
from src.diffusion.schedules import Schedule, expand_like
from src.diffusion.variances import Variance

POINTS = (2,)
SHAPES = [POINTS, (1, 7), (3, 5), (1, 4, 4), (3, 4, 6)]


class Inverted(nn.Module):
    """The net that makes a denoiser predict what a function of (x_t, t, cond) says: its coefficients, inverted."""

    def __init__(self, predict: Callable, schedule: Schedule, parameterization: Parameterization):
        super().__init__()
        self.predict, self.schedule, self.parameterization = predict, schedule, parameterization
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))  # which tells where it lives
        self.t: Tensor | None = None

    def forward(self, x, c_noise, cond=None):
        c_in, c_skip, c_out, _ = (
            expand_like(c, x) for c in self.parameterization.preconditioning(self.schedule, self.t)
        )
        said = self.predict(x / c_in, self.t, cond)
        x_0, *more = said if isinstance(said, tuple) else (said,)
        return torch.cat([(x_0 - c_skip * (x / c_in)) / c_out, *more], 1)


class Oracle(Denoiser):
    """A denoiser that says what `predict(x_t, t, cond)` does, x_0 or (x_0, output for the variance)."""

    def __init__(
        self,
        predict: Callable,
        schedule: Schedule,
        parameterization: Parameterization | None = None,
        variance: Variance | None = None,
    ):
        parameterization = parameterization or X0()
        super().__init__(Inverted(predict, schedule, parameterization), schedule, parameterization, variance)

    def forward(self, x_t, t, cond=None, estimate=None):
        self.net.t = torch.as_tensor(t)
        return super().forward(x_t, t, cond, estimate)


class Mixture:
    r"""Data from :math:`\sum_k w_k N(\mu_k, s_k^2 I)`, k being the label; float64.

    Args:
        shape: (C, *S); the means are the same smooth function of the elements whatever it is.
    """

    def __init__(self, shape: tuple[int, ...], modes: int = 3):
        index = torch.arange(math.prod(shape), dtype=torch.float64).view(shape)
        self.means = torch.stack([torch.sin(2.0 * k + 0.7 * index) for k in range(modes)])
        self.stds = torch.linspace(0.3, 0.6, modes, dtype=torch.float64)
        self.weights = torch.arange(1, modes + 1, dtype=torch.float64) / sum(range(modes + 1))
        self.shape = shape

    def draw(self, n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """Data and labels."""
        label = torch.multinomial(self.weights, n, replacement=True, generator=g)
        z = torch.randn(n, *self.shape, generator=g, dtype=torch.float64)
        return self.means[label] + expand_like(self.stds[label], z) * z, label

    def moments(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """E[x_0 | x_t, k], (K, B, *shape), log N(x_t; k) and log w_k N(x_t; k), (K, B)."""
        mean, alpha, sigma = self.means.to(x)[:, None], expand_like(alpha, x), expand_like(sigma, x)
        data = expand_like(self.stds.to(x) ** 2, x[None])
        power = alpha**2 * data + sigma**2
        within = -((x - alpha * mean) ** 2) / (2 * power) - 0.5 * (2 * math.pi * power).log()
        log_p = within.expand(len(mean), *x.shape).flatten(2).sum(2)
        return mean + alpha * data / power * (x - alpha * mean), log_p, log_p + self.weights.to(x).log()[:, None]

    def log_density(self, x_0: Tensor) -> Tensor:
        return self.moments(x_0, torch.tensor(1.0).double(), torch.tensor(0.0).double())[2].logsumexp(0)

    def denoiser(self, schedule: Schedule):
        """`denoise(x_t, t, cond)`: E[x_0 | x_t], and E[x_0 | x_t, y] of the rows that have a label."""

        def denoise(x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
            of_label, _, log_p = self.moments(x_t, *schedule.alpha_sigma(torch.as_tensor(t)))
            share = log_p.softmax(0).view(*log_p.shape, *[1] * (x_t.ndim - 1))
            x_0 = (share * of_label).sum(0)
            if cond is None:
                return x_0
            chosen = of_label[cond.clamp(min=0), torch.arange(len(x_t))]
            return torch.where((cond >= 0).view(-1, *[1] * (x_t.ndim - 1)), chosen, x_0)

        return denoise

    def log_prob(self, schedule: Schedule):
        """The exact classifier `log p(y | x_t)`."""

        def log_prob(x_t: Tensor, t: Tensor, label: Tensor) -> Tensor:
            _, _, log_p = self.moments(x_t, *schedule.alpha_sigma(t))
            return log_p.log_softmax(0)[label, torch.arange(len(x_t))]

        return log_prob


def posterior(schedule: Schedule, s: Tensor, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""a, b and v of :math:`q(x_s | x_t, x_0) = N(a x_t + b x_0, v)`, from Bayes' rule for two Gaussians."""
    alpha_s, sigma_s = (expand_like(v, like) for v in schedule.alpha_sigma(s))
    alpha_t, sigma_t = (expand_like(v, like) for v in schedule.alpha_sigma(t))
    gain, prior = alpha_t / alpha_s, sigma_s**2
    added = sigma_t**2 - gain**2 * prior
    total = added + gain**2 * prior
    return gain * prior / total, added * alpha_s / total, added * prior / total

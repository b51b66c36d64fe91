"""A net trained by each loss on Gaussian data reaches their flow map, which is known in closed form.

The net is affine in x, as the map of Gaussian data is, with polynomials of the times as coefficients. The data and
their noise have exactly the mean and covariance that they should, so that a loss at given times is its expectation: it
is of the second degree in both. What is left of the error is that of the loss, and of the polynomials.
"""

import pytest
import torch
from torch import nn

from src.diffusion import weightings
from src.diffusion.consistency import ConsistencyDistillation, ConsistencyTraining, ContinuousConsistency
from src.diffusion.flow_map import FlowMap, ddim_map
from src.diffusion.flow_map_losses import Eulerian, MeanFlow
from src.diffusion.lagrangian import Lagrangian
from src.diffusion.parameterizations import Flow
from src.diffusion.schedules import FlowSchedule
from src.diffusion.semigroup import Progressive, ProgressiveDistillation, Shortcut
from src.diffusion.teacher import Teacher
from tests.diffusion.test_flow_map import MEAN, STD, exact, gaussian_denoiser, gaussian_map

SCHEDULE, W, DEGREE, ELEMENTS, ROWS = FlowSchedule(), weightings.flow_weighting, 6, 4, 1024
SIZES = (2 * torch.arange(DEGREE + 1, dtype=torch.float64) + 1).sqrt()


class Affine(nn.Module):
    """F(x, t, s) = a x + b, with a and b sums of products of polynomials of t and of s / t."""

    def __init__(self):
        super().__init__()
        self.coefficients = nn.Parameter(torch.zeros((DEGREE + 1) ** 2, 2, dtype=torch.float64))

    def forward(self, x, c_noise, cond=None):
        slope, shift = (features(c_noise / 1000) @ self.coefficients).unbind(1)
        return slope.view(-1, 1, 1) * x + shift.view(-1, 1, 1)


def features(times):
    """Products of Legendre polynomials, orthonormal for uniform t and s / t, (B, (DEGREE + 1)^2) for times (B, 2)."""
    t, s = times.unbind(1)
    return (legendre(2 * t - 1)[:, :, None] * legendre(2 * s / t.clamp(min=1e-9) - 1)[:, None]).flatten(1)


def legendre(x):
    values = [torch.ones_like(x), x]
    for k in range(1, DEGREE):
        values.append(((2 * k + 1) * x * values[k] - k * values[k - 1]) / (k + 1))
    return torch.stack(values, 1) * SIZES


def whitened(draws):
    """Data and noise (ROWS, 1, ELEMENTS), the same in each row, of exactly the moments of N(m, d^2) and N(0, 1)."""
    z = torch.randn(2, ELEMENTS, generator=draws, dtype=torch.float64)
    z = z - z.mean(1, keepdim=True)
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(z @ z.T / ELEMENTS), z, upper=False)
    return (MEAN + STD * z[0]).expand(ROWS, 1, -1), z[1].expand(ROWS, 1, -1)


def stratified(draws):
    u = torch.arange(ROWS) + torch.rand(ROWS, generator=draws, dtype=torch.float64)
    return (u[torch.randperm(ROWS, generator=draws)] / ROWS).clamp(min=1e-5)


def jacobian(loss, t, s):
    """The derivative of the residual, in units of F, by the coefficients of the polynomials, (B, (DEGREE + 1)^2).

    It is that of F, since targets have no gradient. That of the Lagrangian equation has also the derivative by s, and
    the point X, at which the velocity is that of the data.
    """
    times = torch.stack([t, s], 1)
    phi, rate = torch.func.jvp(features, (times,), (torch.stack([0 * t, torch.ones_like(s)], 1),))
    if not isinstance(loss, Lagrangian):
        return phi
    slope = (s - (1 - s) * STD**2) / ((1 - s) ** 2 * STD**2 + s**2)
    return phi + ((t - s) * slope)[:, None] * phi - (t - s)[:, None] * rate


def curvature(loss, draws):
    """The mean of the squares of the derivatives of the residual by the coefficients, (2 K, 2 K)."""
    parts = []
    for _ in range(8):
        t = stratified(draws)
        s, moved = t.clone(), loss.off_diagonal_rows(ROWS, None)
        t[moved], s[moved] = loss.times(SCHEDULE, t[moved], None)
        alpha, sigma = SCHEDULE.alpha_sigma(t)
        c_in = Flow().preconditioning(SCHEDULE, t).c_in
        mean, square = c_in * alpha * MEAN, c_in**2 * (alpha**2 * (MEAN**2 + STD**2) + sigma**2)
        moments = torch.stack([square, mean, mean, torch.ones_like(t)], 1).view(-1, 2, 2)
        phi = jacobian(loss, t, s)
        parts.append(torch.einsum("bi,bj,bkl->ikjl", phi, phi, moments).flatten(2).flatten(0, 1) / ROWS)
    return torch.stack(parts).mean(0)


def train(loss, steps, rate):
    """Steps of Newton's method for a fixed target, of which `rate` is taken: it follows the target, which moves."""
    torch.manual_seed(0)
    flow_map, draws = FlowMap(Affine(), SCHEDULE, Flow()), torch.Generator().manual_seed(0)
    inverse = torch.linalg.pinv(2 * curvature(loss, draws), rtol=1e-6, hermitian=True)
    weight = flow_map.net.coefficients
    for _ in range(steps):
        x_0, noise = whitened(draws)
        loss(flow_map, x_0, stratified(draws), noise).mean().backward()
        with torch.no_grad():
            weight -= rate * (inverse @ weight.grad.flatten()).view_as(weight)
        weight.grad = None
    return flow_map.eval()


def error(flow_map, t, s, wanted=gaussian_map):
    """The root mean square error of X(x_t, t, s) for noisy data."""
    draws = torch.Generator().manual_seed(1)
    x_0, noise = (torch.randn(len(t), 1, 64, generator=draws, dtype=torch.float64) for _ in range(2))
    x_t = SCHEDULE.add_noise(MEAN + STD * x_0, t, noise)
    with torch.no_grad():
        return (flow_map.map(x_t, t, s) - wanted(SCHEDULE, x_t, t, s)).square().mean().sqrt().item()


def any_times(t, u):
    return t, u * t


def to_data(t, u):
    return t, 0 * t


def on_grid(t, u):
    """Steps of 1, 1/2, 1/4 and 1/8 between their multiples."""
    length = 0.5 ** (4 * u).floor()
    t = ((t / length).ceil() * length).clamp(max=1)
    return t, t - length


TEACHER = Teacher(exact(SCHEDULE))
SHORTEST = 512  # steps
CASES = {  # the loss, the times that it teaches, steps and rate of the training
    "progressive": (lambda: Progressive(W), any_times, 200, 0.15),
    "lagrangian": (lambda: Lagrangian(W), any_times, 200, 0.15),
    "lagrangian, teacher": (lambda: Lagrangian(W, teacher=TEACHER), any_times, 200, 0.15),
    "eulerian": (lambda: Eulerian(W), any_times, 500, 0.03),
    "mean_flow": (lambda: MeanFlow(W, 0.5, improved=False), any_times, 500, 0.03),
    "mean_flow, improved": (lambda: MeanFlow(W, 0.5), any_times, 500, 0.03),
    "consistency_training": (lambda: ConsistencyTraining(W, stage_steps=40), to_data, 600, 0.02),
    "continuous_consistency": (lambda: ContinuousConsistency(W, warmup_steps=100), to_data, 400, 0.02),
    "consistency_distillation": (lambda: ConsistencyDistillation(W, TEACHER, steps=1000), to_data, 600, 0.02),
    "shortcut": (lambda: Shortcut(W, 0.5, steps=SHORTEST), on_grid, 300, 0.15),
    "progressive_distillation": (lambda: ProgressiveDistillation(W, TEACHER, steps=SHORTEST), on_grid, 300, 0.15),
}
QUICK = "progressive"


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == QUICK else pytest.mark.slow) for n in CASES])
def test_a_trained_net_is_the_exact_map(name):
    """To 1e-3, over the times that the loss teaches; 0.1 or more before the training."""
    make, times, steps, rate = CASES[name]
    loss = make()
    loss.adaptive_power = 0.0  # the weights of samples would need a curvature of their own
    u = torch.rand(2, 400, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    t, s = times(*u)
    assert error(FlowMap(Affine(), SCHEDULE, Flow()), t, s) > 0.1
    wanted = shortest_steps if times is on_grid else gaussian_map
    learned = train(loss, steps, rate)
    assert error(learned, t, s, wanted) < 1e-3
    assert error(learned, t, s) < 2e-3


def shortest_steps(schedule, x_t, t, s):
    """The map of steps of DDIM of 1 / SHORTEST, which the losses on a grid teach: 1e-3 from the exact one."""
    for i in range(round((t - s).max().item() * SHORTEST)):
        now = torch.maximum(t - i / SHORTEST, s)
        then = torch.maximum(now - 1 / SHORTEST, s)
        x_t = ddim_map(schedule, x_t, gaussian_denoiser(schedule, x_t, now), now, then)
    return x_t

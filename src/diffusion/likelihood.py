"""The log-density of data under the probability-flow ODE."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from src.diffusion.schedules import Schedule


class LogLikelihood(NamedTuple):
    """A log-likelihood.

    Attributes:
        log_density: (B,), in nats per sample.
        nfe: number of evaluations of the denoiser, each with its backward passes.
    """

    log_density: Tensor
    nfe: int


def ode_log_likelihood(
    denoise: Callable[[Tensor, Tensor], Tensor],
    schedule: Schedule,
    x_0: Tensor,
    probes: Tensor | None = None,
    sigma_min: float = 1e-3,
    sigma_max: float = 1e3,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> LogLikelihood:
    r"""Solve the probability-flow ODE from data to noise and integrate its divergence.

    With :math:`y = x_t / \alpha_t`, :math:`u = \log(\sigma_t / \alpha_t)` and :math:`\hat x_0` as a function of y and u

    .. math:: \frac{dy}{du} = y - \hat x_0, \quad
              \log p(x_0) = \log p(y_1) + \int (D - \nabla_y \cdot \hat x_0)\, du

    which is smooth at both ends. The solver is the adaptive Runge-Kutta method of Dormand and Prince.

    Args:
        denoise: differentiable function of (x_t, t) that predicts x_0.
        schedule: the forward process.
        x_0: (B, C, *S).
        probes: (P, B, C, *S) random signs for Hutchinson's estimate of the divergence; None for the exact one, which
            needs a backward pass per element of a sample.
        sigma_min: smallest :math:`\sigma / \alpha`; the data is assumed to have this noise.
        sigma_max: largest; lower if the schedule ends before or float64 times do not resolve it; see :func:`last_time`.
        rtol, atol: tolerances of the solver.

    Source: Song et al. 2021, arXiv:2011.13456, eq. 39 and 40; Grathwohl et al. 2019, arXiv:1810.01367, eq. 7.
    """
    from torchdiffeq import odeint

    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"likelihood must have 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    t_end = last_time(schedule, sigma_max)
    last = -schedule.log_snr(t_end).item() / 2
    span = torch.tensor([math.log(sigma_min), last], dtype=x_0.dtype, device=x_0.device)
    dimensions, evaluations = x_0.shape[1:].numel(), 0

    def flow(u: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal evaluations
        evaluations += 1
        with torch.inference_mode(False), torch.enable_grad():
            t = schedule.inverse_log_snr(-2 * u.cpu().double())
            alpha = schedule.alpha_sigma(t)[0].item()
            y = state[0].clone().requires_grad_()
            x_hat = denoise(alpha * y, t)
            stretch = dimensions - divergence(x_hat, y, probes)
        return (y - x_hat).detach(), stretch

    start = (x_0, torch.zeros(len(x_0), device=x_0.device, dtype=x_0.dtype))
    (_, y), (_, stretch) = odeint(flow, start, span, rtol=rtol, atol=atol, method="dopri5")
    alpha, sigma = (v.item() for v in schedule.alpha_sigma(t_end))
    z = (alpha / sigma * y).flatten(1)
    log_prior = -0.5 * z.square().sum(1) - dimensions * (0.5 * math.log(2 * math.pi) + math.log(sigma / alpha))
    return LogLikelihood(log_prior + stretch, evaluations)


def last_time(schedule: Schedule, sigma_max: float) -> Tensor:
    r"""The time where :math:`\sigma / \alpha` is `sigma_max`, or the last time at which float64 resolves it.

    There the nearest other number changes :math:`\log(\sigma / \alpha)` by less than 1e-4. A schedule that ends without
    signal may have all higher noise levels within a rounding error of t = 1.
    """
    t = schedule.inverse_log_snr(torch.tensor(-2 * math.log(sigma_max), dtype=torch.float64))
    before = 1 - 2.0 ** -torch.arange(53, 0, -1, dtype=torch.float64)
    times = torch.minimum(torch.cat([t[None], before]), t)
    log_snr, nearest = (schedule.log_snr(u) for u in (times, torch.nextafter(times, torch.zeros_like(times))))
    return times[((nearest - log_snr).abs() < 2e-4).nonzero()[0, 0]]


def divergence(output: Tensor, x: Tensor, probes: Tensor | None) -> Tensor:
    """The divergence of output(x), (B,): exact, or the mean over the probes v of v' J v."""
    if probes is None:
        flat = output.flatten(1).unbind(1)
        parts = [torch.autograd.grad(f.sum(), x, retain_graph=True)[0].flatten(1)[:, i] for i, f in enumerate(flat)]
        return torch.stack(parts).sum(0)
    parts = [(torch.autograd.grad(output, x, v, retain_graph=True)[0] * v).flatten(1).sum(1) for v in probes]
    return torch.stack(parts).mean(0)


def dequantize(x: Tensor, num_levels: int, generator: torch.Generator) -> Tensor:
    """Add uniform noise of the width of a level to discrete data of `num_levels` values in [-1, 1]."""
    u = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return x + (2 * u - 1) / (num_levels - 1)


def bits_per_dimension(log_density: Tensor, dimensions: int, num_levels: int | None = None) -> Tensor:
    r""":math:`-\log_2 p / D` of a log-density in nats; with `num_levels` that of dequantized data, an upper bound
    on the bits of each of its levels, which are 2 / (num_levels - 1) wide.

    Source: Theis et al. 2016, arXiv:1511.01844, section 3.1.
    """
    bits = -log_density / (dimensions * math.log(2))
    return bits if num_levels is None else bits - math.log2(2 / (num_levels - 1))

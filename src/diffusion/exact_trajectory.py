"""Solutions of the probability-flow ODE of data whose denoiser is known."""

from collections.abc import Callable

import torch
from torch import Tensor

from src.diffusion.schedules import Schedule

ANGLE_0 = 1e-6  # from which the last step goes to the data; its error is of the order of the square


def exact_trajectory(
    denoise: Callable[[Tensor, Tensor, Tensor], Tensor],
    schedule: Schedule,
    x_t: Tensor,
    times: Tensor,
    tolerance: float = 1e-10,
) -> Tensor:
    r"""Solve the ODE at the given times, to about ten times the tolerance.

    With :math:`\theta = \arctan(\sigma / \alpha)` and :math:`z = x / \sqrt{\alpha^2 + \sigma^2}` the ODE of every
    schedule is

    .. math:: \frac{dz}{d\theta} = \frac{z \cos\theta - \hat x_0(z, \theta)}{\sin\theta}

    which is smooth from noise to data. The solver is the adaptive Runge-Kutta method of order 8 of Dormand and Prince.

    Args:
        denoise: function of (x_t, alpha, sigma), float64, that is :math:`E[x_0 | x_t]`.
        schedule: the forward process.
        x_t: (B, C, *S) at the first of the times.
        times: (K,), decreasing.
        tolerance: absolute and relative tolerance of the solver.

    Returns:
        (K, B, C, *S), float64 on the CPU, x_t first.
    """
    from torchdiffeq import odeint

    alpha, sigma = schedule.alpha_sigma(times.double())
    angles, sizes = torch.atan2(sigma, alpha).clamp(min=ANGLE_0), torch.hypot(alpha, sigma)
    x_t = x_t.double().cpu()

    def slope(angle: Tensor, z: Tensor) -> Tensor:
        return (z * angle.cos() - denoise(z, angle.cos(), angle.sin())) / angle.sin()

    steps_at = {"step_t": angles}  # between its steps the solver interpolates, with an error of 1e-7
    z = odeint(slope, x_t / sizes[0], angles, rtol=tolerance, atol=tolerance, method="dopri8", options=steps_at)
    path = z * sizes.view(-1, *[1] * x_t.ndim)
    if sigma[-1] == 0:
        path[-1] = alpha[-1] * denoise(z[-1], angles[-1].cos(), angles[-1].sin())
    return path

"""The loss of a flow map by the Lagrangian equation."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from src.diffusion.flow_map import ddim_map, map_coefficients, ode_coefficients
from src.diffusion.flow_map_losses import FlowMapLoss
from src.diffusion.schedules import Schedule, Time, expand_like


class Lagrangian(FlowMapLoss):
    r"""The Lagrangian equation: as s moves, the map moves with the velocity at the point that it has reached.

    .. math:: R = \bar x_0 - \hat x_0(X(x_t, t, s), s) + h\, \frac{\partial \bar x_0}{\partial s}, \quad
              h = (\kappa_s - \kappa_t) / \dot\kappa_s

    The weighting is taken at s, where the denoiser is evaluated. There its parameters get no gradient, but the point X
    does: with X constant too the steps are the gradient of no function, and training need not converge.

    Source: Boffi, Albergo, Vanden-Eijnden 2025, arXiv:2505.18825, section 3 (Lagrangian self-distillation); with a
    teacher Boffi et al. 2024, arXiv:2406.07507 (Lagrangian map distillation).
    """

    def residual(self, flow_map, segment):
        x_t, t, s, _, cond = segment
        schedule = flow_map.schedule
        mean, rate = flow_map.with_rate(x_t, t, s, cond)
        there = ddim_map(schedule, x_t, mean, t, s)
        data = GradientByInput.apply(there, lambda x_s: self.predict(flow_map, x_s, s, cond))
        tangent = expand_like(self.gain(schedule, t, s), x_t) * rate
        self.watch(flow_map, segment, tangent)
        return mean - data + tangent

    def size(self, flow_map, residual, segment):
        return super().size(flow_map, residual, segment._replace(t=segment.s))

    def gain(self, schedule: Schedule, t: Time, s: Time) -> Time:
        r""":math:`(\kappa_s - \kappa_t) / \dot\kappa_s`, which is 0 at s = t and at s = 0."""
        return -map_coefficients(schedule, t, s)[1] / ode_coefficients(schedule, s)[1]


class GradientByInput(torch.autograd.Function):
    """``GradientByInput.apply(x, function)`` is function(x), whose backward pass leaves all but x alone.

    The graph of the function is apart from that of the result, so that its parameters need not be marked as constant,
    which activation checkpointing and the processes of a distributed run would notice.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.enable_grad():
            ctx.x = x.detach().requires_grad_(ctx.needs_input_grad[0])
            ctx.y = function(ctx.x)
        return ctx.y.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return torch.autograd.grad(ctx.y, ctx.x, gradients[0])[0], None

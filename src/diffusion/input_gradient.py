"""Values of a network whose gradient is by its input alone."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


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

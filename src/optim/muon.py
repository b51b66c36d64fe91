"""Muon: orthogonalized momentum for matrices, AdamW for all other parameters."""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Interval
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

# Coefficients of the fifth-order polynomial that brings all singular values into [0.7, 1.2] in five steps.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
Decay = Annotated[float, Interval(ge=0, lt=1)]


class Muon(torch.optim.Optimizer):
    r"""Orthogonalized momentum for weight matrices; AdamW for biases, norms and narrow matrices.

    .. math:: M \leftarrow \mu M + G, \quad
              W \leftarrow (1 - \eta \lambda) W - 0.2\, \eta \sqrt{\max(m, n)}\; U V^\top, \quad
              G + \mu M = U \Sigma V^\top

    where W is m by n; the kernel of a convolution is a matrix of its outputs by all inputs of one output. The factor
    makes an update as large as one of AdamW, so that one learning rate serves both. :math:`U V^\top` is computed by
    five steps of a Newton-Schulz iteration. torch.optim.Muon takes only matrices, not convolutions, and needs a second
    optimizer for all other parameters.

    Args:
        params: parameters to optimize.
        lr: learning rate, :math:`\eta`.
        momentum: :math:`\mu`.
        betas, eps: parameters of AdamW.
        weight_decay: :math:`\lambda`, for all parameters.
        min_matrix_size: matrices with fewer rows or columns are left to AdamW.

    Source: Jordan 2024, https://kellerjordan.github.io/posts/muon; factor: Liu et al. 2025, arXiv:2502.16982, eq. 4.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: Annotated[float, Gt(0)] = 1e-3,
        momentum: Decay = 0.95,
        betas: tuple[Decay, Decay] = (0.9, 0.99),
        eps: Annotated[float, Interval(gt=0, le=1)] = 1e-8,
        weight_decay: Annotated[float, Ge(0)] = 0.01,
        min_matrix_size: Annotated[int, Ge(1)] = 16,
    ):
        if lr <= 0 or not 0 <= momentum < 1 or min_matrix_size < 1:
            raise ValueError(
                "lr must be > 0, momentum in [0, 1) and min_matrix_size >= 1, "
                f"got {lr}, {momentum} and {min_matrix_size}"
            )
        every = list(params)
        wide = [p for p in every if p.ndim > 1 and min(len(p), p.numel() // len(p)) >= min_matrix_size]
        rest = [p for p in every if not any(p is w for w in wide)]
        groups: list[dict[str, Any]] = [{"params": wide, "matrices": True}, {"params": rest, "matrices": False}]
        defaults = {"lr": lr, "momentum": momentum, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__([g for g in groups if g["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if params:
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
                grads = [p.grad for p in params if p.grad is not None]
                (self.step_matrices if group["matrices"] else self.step_adam)(params, grads, group)
        return loss

    def step_matrices(self, params: list[Tensor], grads: list[Tensor], group: dict[str, Any]) -> None:
        mean = self.states(params, "momentum")
        torch._foreach_mul_(mean, group["momentum"])
        torch._foreach_add_(mean, grads)
        nesterov = torch._foreach_add(grads, mean, alpha=group["momentum"])
        for p, update in zip(params, newton_schulz([full_tensor(n).flatten(1) for n in nesterov]), strict=True):
            p.add_(redistribute(p, update.view(p.shape)), alpha=-0.2 * group["lr"] * max(update.shape) ** 0.5)

    def step_adam(self, params: list[Tensor], grads: list[Tensor], group: dict[str, Any]) -> None:
        b1, b2 = group["betas"]
        mean, square = self.states(params, "mean"), self.states(params, "square")
        group["step"] = step = group.get("step", 0) + 1
        torch._foreach_lerp_(mean, grads, 1 - b1)
        torch._foreach_mul_(square, b2)
        torch._foreach_addcmul_(square, grads, grads, 1 - b2)
        scale = list(torch._foreach_div(square, 1 - b2**step))
        torch._foreach_sqrt_(scale)
        torch._foreach_add_(scale, group["eps"])
        torch._foreach_addcdiv_(params, mean, scale, -group["lr"] / (1 - b1**step))

    def states(self, params: list[Tensor], name: str) -> list[Tensor]:
        """The tensors of an optimizer state, one per parameter, initially zeros."""
        for p in params:
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p)
        return [self.state[p][name] for p in params]


def full_tensor(x: Tensor) -> Tensor:
    """Gather a sharded tensor on each process: a part of a matrix has other singular vectors."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def redistribute(p: Tensor, x: Tensor) -> Tensor:
    """Shard x, replicated on every process, like p."""
    return distribute_tensor(x, p.device_mesh, p.placements, src_data_rank=None) if isinstance(p, DTensor) else x


def newton_schulz(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Approximate U V^T of each g = U S V^T: the singular values are between 0.7 and 1.2, tiny ones lower.

    A step of the iteration is X <- Z X with Z a polynomial of X X^T. The product of all Z is computed first, from X X^T
    alone, which is small, and for all matrices with the same number of rows at once; float32 is then cheap.
    """
    rows = [g.T if len(g) > g.shape[1] else g for g in matrices]
    rows = [x / (x.norm() + 1e-7) for x in rows]
    found: list[Tensor] = [*rows]
    for side in {len(x) for x in rows}:
        alike = [i for i, x in enumerate(rows) if len(x) == side]
        products = newton_schulz_factor(torch.stack([rows[i] @ rows[i].T for i in alike]))
        for i, product in zip(alike, products, strict=True):
            found[i] = product @ rows[i]
    return [x.T if len(g) > g.shape[1] else x for g, x in zip(matrices, found, strict=True)]


def newton_schulz_factor(gram: Float[Tensor, "k m m"]) -> Float[Tensor, "k m m"]:
    """The product of the factors Z of all steps, approximately (X X^T)^(-1/2), from X X^T."""
    a, b, c = COEFFICIENTS
    product = gram  # replaced at once
    for step in range(STEPS):
        z = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        z.diagonal(dim1=1, dim2=2).add_(a)
        product = z @ product if step else z
        if step < STEPS - 1:
            gram = z @ gram @ z
    return product

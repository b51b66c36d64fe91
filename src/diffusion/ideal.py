"""The ideal denoiser of a finite data set."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from src.diffusion.conditions import NULL

Part = tuple[Tensor, Tensor | None]


def ideal_denoiser(
    x_t: Float[Tensor, "batch *shape"],
    alpha: Float[Tensor, " batch"],
    sigma: Float[Tensor, " batch"],
    data: Iterable[Part],
    cond: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch *shape"]:
    r"""The posterior mean of the data given noisy samples, for a finite set of equally likely data.

    .. math:: E[x_0 | x_t] = \sum_i w_i x_i, \quad
              w = \operatorname{softmax}_i \left( -\frac{|x_t - \alpha x_i|^2}{2 \sigma^2} \right)

    It minimizes the expected squared error on these data, as a model that memorizes them would.

    Args:
        x_t: noisy samples; the device and precision of the computation are theirs.
        alpha, sigma: coefficients of each sample.
        data: batches of the x_i with their conditions, (x (M, *shape), cond (M,) or None).
        cond: conditions of the samples, which restrict the data to those of the same condition; -1 for all data.

    Source: Karras et al. 2022, arXiv:2206.00364, eq. 57 in appendix B.3.
    """
    shape, origin = x_t.shape, None
    alpha, sigma = (v.to(x_t.device, torch.float64).view(-1, 1) for v in (alpha, sigma))
    near, far = (alpha / sigma**2).to(x_t), (alpha**2 / (2 * sigma**2)).to(x_t)
    highest = x_t.new_full((len(x_t), 1), -torch.inf)
    total, weighted = torch.zeros_like(highest), torch.zeros_like(x_t).flatten(1)
    for x, x_cond in data:
        x = x.to(x_t).flatten(1)
        if origin is None:
            # Distances are computed as differences of squares, which are most precise around the mean of the data.
            origin = x.mean(0)
            noisy = x_t.flatten(1) - alpha.to(x_t) * origin
        x = x - origin
        # The square of the noisy sample is equal for all data and left out.
        logits = near * (noisy @ x.T) - far * x.square().sum(1)
        if cond is not None and x_cond is not None:
            foreign = (cond[:, None] != x_cond) & (cond[:, None] != NULL)
            logits = logits.masked_fill(foreign.to(logits.device), -torch.inf)
        higher = torch.maximum(highest, logits.amax(1, keepdim=True))
        pivot = higher.clamp(min=torch.finfo(x_t.dtype).min)  # before any data of this condition
        weights, shrink = (logits - pivot).exp(), (highest - pivot).exp()
        total, weighted = shrink * total + weights.sum(1, keepdim=True), shrink * weighted + weights @ x
        highest = higher
    if origin is None:
        raise ValueError("ideal_denoiser needs at least one batch of data")
    return (weighted / total + origin).view(shape)

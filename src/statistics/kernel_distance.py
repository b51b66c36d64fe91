"""The kernel distance between two sets of features: an unbiased estimate and its standard error."""

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1000


class KernelPairs(NamedTuple):
    """Statistics of the kernel over all pairs of features (M, D) and (N, D), or over the distinct pairs of one set.

    Attributes:
        rows: (M,) means over the second set.
        columns: (N,) means over the first set.
        mean: mean over all pairs.
        interaction: variance of the interaction term :math:`k(x, y) - E_y k - E_x k + E k`.
    """

    rows: Tensor
    columns: Tensor
    mean: float
    interaction: float


def kernel_distance(x: Tensor, y: Tensor) -> tuple[float, float]:
    r"""The squared kernel distance of features (M, D) and (N, D), unbiased, and its standard error.

    .. math:: d^2 = E\, k(x, x') + E\, k(y, y') - 2 E\, k(x, y), \quad k(x, y) = (x^T y / D + 1)^3

    over all pairs. Its variance is the sum over the terms of Hoeffding's decomposition,

    .. math:: \frac{4 \zeta_x}{M} + \frac{4 \zeta_y}{N} + \frac{2 v_{xx}}{M (M - 1)} + \frac{2 v_{yy}}{N (N - 1)}
              + \frac{4 v_{xy}}{M N}

    with :math:`\zeta_x` the variance of :math:`E_{x'} k(x, x') - E_y k(x, y)`, corrected for the variance of means over
    finite sets, and v the interaction of :class:`KernelPairs`. Between equal distributions zeta is 0 and the error
    decreases as 1 / N, between distant ones as its square root.

    Source: Bińkowski et al. 2018, arXiv:1801.01401, eq. 3 and 4; Serfling 1980, Approximation theorems of mathematical
    statistics, section 5.2; Gretton et al. 2012, A kernel two-sample test, JMLR 13, theorem 8.
    """
    m, n = len(x), len(y)
    xx, yy, xy = kernel_pairs(x), kernel_pairs(y), kernel_pairs(x, y)
    zeta_x = (xx.rows - xy.rows).var().item() - xx.interaction / (m - 1) - xy.interaction / n
    zeta_y = (yy.rows - xy.columns).var().item() - yy.interaction / (n - 1) - xy.interaction / m
    of_pairs = 2 * xx.interaction / (m * (m - 1)) + 2 * yy.interaction / (n * (n - 1)) + 4 * xy.interaction / (m * n)
    # Between equal distributions the estimates of zeta scatter around 0.
    variance = of_pairs + max(4 * zeta_x / m + 4 * zeta_y / n, 0.0)
    return xx.mean + yy.mean - 2 * xy.mean, variance**0.5


def kernel_pairs(x: Tensor, y: Tensor | None = None) -> KernelPairs:
    """Evaluate the kernel on features (M, D) and (N, D), at least four each; without y on x and itself."""
    itself, y = y is None, x if y is None else y
    rows, columns, squares = [], torch.zeros(len(y), dtype=torch.float64), 0.0
    for i, part in enumerate(x.split(CHUNK)):
        k = ((part @ y.T / x.shape[1] + 1) ** 3).double().cpu()
        if itself:
            k.diagonal(i * CHUNK).zero_()
        rows.append(k.sum(1))
        columns += k.sum(0)
        squares += float(k.square().sum())
    m, n = len(x), len(y) - itself  # n terms in each row
    each, of_y = torch.cat(rows) / n, columns / (m - itself)
    mean, square = each.mean().item(), squares / (m * n)
    spread = (each.var(correction=0) + of_y.var(correction=0)).item()
    # Unbiased, as in a two-factor analysis of variance without the pairs of a sample with itself.
    if itself:
        interaction = (square - mean**2 - spread * n / (n - 1)) * n / (n - 2)
    else:
        interaction = (square - mean**2 - spread) * m / (m - 1) * n / (n - 1)
    return KernelPairs(each, of_y, mean, max(interaction, 0.0))

"""How far two sets of features are apart by a kernel: an unbiased estimate, and how much it varies."""

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1000


class Pairs(NamedTuple):
    """The kernel of all pairs of features (M, D) and (N, D), or of a set with itself but for each with itself.

    rows: (M,) means over the other set; columns: (N,). mean: of all. varying: the variance of what depends on both
    features of a pair at once, :math:`k(x, y) - E_y k - E_x k + E k`.
    """

    rows: Tensor
    columns: Tensor
    mean: float
    varying: float


def kernel_distance(x: Tensor, y: Tensor) -> tuple[float, float]:
    r"""The squared kernel distance of features (M, D) and (N, D), unbiased, and its standard error over new sets.

    .. math:: d^2 = E\, k(x, x') + E\, k(y, y') - 2 E\, k(x, y), \quad k(x, y) = (x^T y / D + 1)^3

    over all pairs. Its variance is that of the parts of Hoeffding's decomposition,

    .. math:: \frac{4 \zeta_x}{M} + \frac{4 \zeta_y}{N} + \frac{2 v_{xx}}{M (M - 1)} + \frac{2 v_{yy}}{N (N - 1)}
              + \frac{4 v_{xy}}{M N}

    with :math:`\zeta_x` the variance of :math:`E_{x'} k(x, x') - E_y k(x, y)`, less what the means over finite sets
    vary by, and v that of :class:`Pairs`. Between equal laws zeta is 0 and the error falls as 1 / N, between far ones
    as its root.

    Source: Bińkowski et al. 2018, arXiv:1801.01401, eq. 3 and 4; Serfling 1980, Approximation theorems of mathematical
    statistics, section 5.2; Gretton et al. 2012, A kernel two-sample test, JMLR 13, theorem 8.
    """
    m, n = len(x), len(y)
    xx, yy, xy = pairs(x), pairs(y), pairs(x, y)
    zeta_x = (xx.rows - xy.rows).var().item() - xx.varying / (m - 1) - xy.varying / n
    zeta_y = (yy.rows - xy.columns).var().item() - yy.varying / (n - 1) - xy.varying / m
    of_pairs = 2 * xx.varying / (m * (m - 1)) + 2 * yy.varying / (n * (n - 1)) + 4 * xy.varying / (m * n)
    # Between equal laws the estimates of zeta scatter around 0.
    variance = of_pairs + max(4 * zeta_x / m + 4 * zeta_y / n, 0.0)
    return xx.mean + yy.mean - 2 * xy.mean, variance**0.5


def pairs(x: Tensor, y: Tensor | None = None) -> Pairs:
    """Of features (M, D) and (N, D), at least four each; without y of x with itself."""
    itself, y = y is None, x if y is None else y
    rows, columns, squares = [], torch.zeros(len(y), dtype=torch.float64), 0.0
    for i, part in enumerate(x.split(CHUNK)):
        k = ((part @ y.T / x.shape[1] + 1) ** 3).double().cpu()
        if itself:
            k.diagonal(i * CHUNK).zero_()
        rows.append(k.sum(1))
        columns += k.sum(0)
        squares += float(k.square().sum())
    m, n = len(x), len(y) - itself  # n terms of each row
    each, of_y = torch.cat(rows) / n, columns / (m - itself)
    mean, square = each.mean().item(), squares / (m * n)
    spread = (each.var(correction=0) + of_y.var(correction=0)).item()
    # Unbiased, as in an analysis of variance of two factors, the pairs of each with itself being missing.
    if itself:
        varying = (square - mean**2 - spread * n / (n - 1)) * n / (n - 2)
    else:
        varying = (square - mean**2 - spread) * m / (m - 1) * n / (n - 1)
    return Pairs(each, of_y, mean, max(varying, 0.0))

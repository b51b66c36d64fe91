"""Two-sample tests: are two sets of vectors from the same distribution?"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 500  # permutations at a time
ROUNDING = 1e-5  # of a statistic relative to the mean distance: permutations that differ by less are ties


class TwoSampleTest(NamedTuple):
    """The energy distance between two sets, and the test of whether they differ.

    Attributes:
        distance: the unbiased estimate, around 0 between equal distributions.
        low, high: its 95 % interval, by the bootstrap.
        limit: 95 % of the distances between equal distributions are below it.
        p: the p-value.
    """

    distance: float
    low: float
    high: float
    limit: float
    p: float


def energy_test(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    permutations: int,
    generator: torch.Generator,
    strata: tuple[Int[Tensor, " n"], Int[Tensor, " m"]] | None = None,
    resamples: int = 200,
) -> TwoSampleTest:
    r"""The energy distance between two sets of vectors, and the permutation test of whether it is 0.

    .. math:: d^2 = 2 E|x - y| - E|x - x'| - E|y - y'|, \quad p = \frac{1 + \#\{d_\pi^2 \ge d^2\}}{1 + \#\pi}

    d is 0 for equal distributions only. p is exact: between equal distributions it is at most a with a probability of
    at most a, whatever the distribution. With strata the distance is the mean over those of x, and only vectors of the
    same stratum are exchanged, so that another share of a stratum is no difference.

    Args:
        x, y: the vectors; at least two each in every stratum of x.
        permutations: how many are drawn.
        generator: of the permutations and the bootstrap.
        strata: of each vector, such as its class; those that are not in both sets are left out.
        resamples: of the bootstrap.

    Source: Székely, Rizzo 2013, 10.1016/j.jspi.2013.03.018; Phipson, Smyth 2010, 10.2202/1544-6115.1585.
    """
    found, again, total, scale = torch.zeros(()), torch.zeros(()), 0, 0.0
    for a, b in _by_stratum(x, y, strata):
        both = torch.cat([a, b]).float()
        d = torch.cdist(both, both).fill_diagonal_(0)
        first = torch.arange(len(both)) < len(a)
        # The given assignment is the first, computed like the others, so that one that changes nothing is a tie.
        permuted = [first[:, None].float(), *_permutations(first, permutations, generator)]
        resampled = _resamples(len(a), len(b), resamples, generator)
        found = found + len(a) * torch.cat([_energies(d, part) for part in permuted])
        again = again + len(a) * _energies(d, *resampled)
        total, scale = total + len(a), max(scale, d.mean().item())
    if not total:
        raise ValueError("the two sets must have two vectors each in a common stratum, got none")
    found, again = found / total, again / total
    ends = torch.tensor([0.025, 0.975], dtype=again.dtype)
    low, high = (found[0] + again.quantile(ends) - again.mean()).tolist()
    limit, ties = found[1:].quantile(0.95).item(), found >= found[0] - ROUNDING * scale
    return TwoSampleTest(found[0].item(), low, high, limit, ties.double().mean().item())


def _by_stratum(x: Tensor, y: Tensor, strata: tuple[Tensor, Tensor] | None) -> Iterator[tuple[Tensor, Tensor]]:
    """The vectors of each stratum that has two or more in both sets."""
    of_x, of_y = strata or (torch.zeros(len(x)), torch.zeros(len(y)))
    for stratum in of_x.unique():
        a, b = x[of_x == stratum], y[of_y == stratum]
        if min(len(a), len(b)) >= 2:
            yield a, b


def _permutations(first: Tensor, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Random assignments (N, k) of 1 to as many vectors as `first` (N,) marks, and 0 to the others."""
    for done in range(0, count, CHUNK):
        keys = torch.rand(min(CHUNK, count - done), len(first), generator=generator, dtype=torch.float64)
        yield (keys <= keys.kthvalue(int(first.sum()), dim=1, keepdim=True).values).float().T


def _resamples(n: int, m: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """How often each of N = n + m vectors is drawn with replacement, of the first n and of the last m: (N, k) each."""
    drawn = [torch.zeros(n + m, count), torch.zeros(n + m, count)]
    for counts, size, start in zip(drawn, (n, m), (0, n), strict=True):
        rows = start + torch.randint(size, (size, count), generator=generator)
        counts.scatter_add_(0, rows, torch.ones_like(rows, dtype=counts.dtype))
    return drawn[0], drawn[1]


def _energies(d: Tensor, a: Tensor, b: Tensor | None = None) -> Tensor:
    """The energy distances (k,) of vectors with distances d (N, N), taken a and b (N, k) times; b is 1 - a if None."""
    of_a = d @ a
    of_b = d.sum(1, keepdim=True) - of_a if b is None else d @ b
    b = 1 - a if b is None else b
    n, m = a.sum(0).double(), b.sum(0).double()
    across, within, others = ((w * s).sum(0).double() for w, s in ((b, of_a), (a, of_a), (b, of_b)))
    return 2 * across / (n * m) - within / (n * (n - 1)) - others / (m * (m - 1))


def holm(p: Sequence[float]) -> list[float]:
    r"""The p-values adjusted for their number, in their order: that of any true hypothesis is rarely small.

    .. math:: \tilde p_{(i)} = \max_{j \le i} \min(1, (k - j + 1) p_{(j)})

    The probability that one or more of the true hypotheses get at most a is at most a, however the tests depend on each
    other.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6.
    """
    adjusted, largest = [0.0] * len(p), 0.0
    for done, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - done) * p[i]))
        adjusted[i] = largest
    return adjusted

"""How two sets of features lie among each other: fidelity and coverage, apart from each other."""

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1000


class Manifolds(NamedTuple):
    """What each sample says; the means are the scores.

    precision: (N,) whether a fake one lies in a ball around a real one, which reaches to its k-th real neighbour.
    recall: (M,) whether a real one lies in such a ball around a fake one.
    density: (N,) in how many balls around real ones a fake one lies, over k.
    coverage: (M,) whether the ball around a real one holds a fake one.
    """

    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


def manifolds(real: Tensor, fake: Tensor, k: int = 5) -> Manifolds:
    """Of features (M, D) and (N, D).

    Raises:
        ValueError: where one set has no k + 1 samples.

    Source: Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2; Naeem et al. 2020, arXiv:2002.09797, eq. 3 and 4.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"at least {k + 1} samples of each kind are needed, not {len(real)} and {len(fake)}")
    of_real, of_fake = radii(real, k), radii(fake, k)
    inside = torch.zeros(len(fake), dtype=torch.long)
    recall, coverage = [], []
    for part, radius in zip(real.split(CHUNK), of_real.split(CHUNK), strict=True):
        distance = torch.cdist(part, fake)
        inside += (distance <= radius[:, None]).sum(0)
        recall.append((distance <= of_fake).any(1))
        coverage.append((distance <= radius[:, None]).any(1))
    return Manifolds(*(v.double() for v in (inside > 0, torch.cat(recall), inside / k, torch.cat(coverage))))


def radii(x: Tensor, k: int) -> Tensor:
    """The distance (N,) of each of x (N, D) to its k-th neighbour."""
    # The nearest one of all is the sample itself.
    return torch.cat([torch.cdist(part, x).kthvalue(k + 1, dim=1).values for part in x.split(CHUNK)])


def mean_distance(x: Tensor) -> tuple[float, float]:
    """The mean distance between two of x (N, D), and the standard error of it.

    That of a U-statistic: 2 s / sqrt(N), with the deviation s among the mean distances of single samples.

    Source: Hoeffding 1948, 10.1214/aoms/1177730196, section 5.
    """
    x = x.double()
    own = torch.cat([torch.cdist(part, x).sum(1) for part in x.split(CHUNK)]) / (len(x) - 1)
    return own.mean().item(), 2 * own.std().item() / len(x) ** 0.5

"""Nearest-neighbor statistics of two sets of features: precision, recall, density, coverage."""

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1000


class PRDC(NamedTuple):
    """Contributions of single samples, whose means are precision, recall, density and coverage.

    The ball of a sample reaches to its k-th nearest neighbor in its own set.

    Attributes:
        precision: (N,) 1 for fake samples in the ball of any real one.
        recall: (M,) 1 for real samples in the ball of any fake one.
        density: (N,) number of real balls around a fake sample, divided by k.
        coverage: (M,) 1 for real samples whose ball contains a fake one.
    """

    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


def prdc(real: Tensor, fake: Tensor, k: int = 5) -> PRDC:
    """Precision, recall, density and coverage of features (M, D) and (N, D).

    Raises:
        ValueError: if a set has fewer than k + 1 samples.

    Source: Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2; Naeem et al. 2020, arXiv:2002.09797, eq. 3 and 4.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"real and fake must have at least k + 1 = {k + 1} samples, got {len(real)} and {len(fake)}")
    of_real, of_fake = radii(real, k), radii(fake, k)
    inside = torch.zeros(len(fake), dtype=torch.long)
    recall, coverage = [], []
    for part, radius in zip(real.split(CHUNK), of_real.split(CHUNK), strict=True):
        distance = torch.cdist(part, fake)
        inside += (distance <= radius[:, None]).sum(0)
        recall.append((distance <= of_fake).any(1))
        coverage.append((distance <= radius[:, None]).any(1))
    return PRDC(*(v.double() for v in (inside > 0, torch.cat(recall), inside / k, torch.cat(coverage))))


def radii(x: Tensor, k: int) -> Tensor:
    """The distance (N,) of each of x (N, D) to its k-th nearest neighbor."""
    # The nearest of all is the sample itself.
    return torch.cat([torch.cdist(part, x).kthvalue(k + 1, dim=1).values for part in x.split(CHUNK)])


def mean_distance(x: Tensor) -> tuple[float, float]:
    """The mean distance between pairs of x (N, D), and its standard error.

    The standard error of a U-statistic is 2 s / sqrt(N), with the standard deviation s of the samples' mean distances.

    Source: Hoeffding 1948, 10.1214/aoms/1177730196, section 5.
    """
    x = x.double()
    own = torch.cat([torch.cdist(part, x).sum(1) for part in x.split(CHUNK)]) / (len(x) - 1)
    return own.mean().item(), 2 * own.std().item() / len(x) ** 0.5

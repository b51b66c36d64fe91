"""How far two sets of features are apart, taken as Gaussians."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from src.utils.seeding import generator

MOST = 10_000  # samples that a bootstrap draws from


class Given(nn.Module):
    """Stands where torchmetrics asks for a network: the features are computed already."""

    def __init__(self, width: int):
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_metric(width: int) -> FrechetInceptionDistance:
    """torchmetrics' Fréchet distance, of features (B, width) instead of images; shared among processes."""
    return FrechetInceptionDistance(feature=Given(width))


class Moments(NamedTuple):
    """Mean (D,) and covariance (D, D), float64."""

    mean: Tensor
    cov: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """Of features (N, D)."""
        return cls(features.double().mean(0), torch.cov(features.double().T))


def frechet(a: Moments, b: Moments) -> float:
    r"""The squared Fréchet distance between two Gaussians.

    .. math:: |\mu_a - \mu_b|^2 + \mathrm{tr}\, (S_a + S_b - 2 (S_a^{1/2} S_b S_a^{1/2})^{1/2})

    By symmetric matrices only, and so several times faster than torchmetrics', for the bootstrap.

    Source: Heusel et al. 2017, arXiv:1706.08500, eq. 6.
    """
    values, vectors = torch.linalg.eigh(a.cov)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.cov @ root).clamp(min=0).sqrt().sum()
    return float((a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * cross)


def frechet_interval(real: Moments, features: Tensor, resamples: int) -> tuple[float, float]:
    """The 95 % interval of the distance of features (N, D) over other samples from their source, N of them.

    Of more than `MOST` the first so many are drawn from, and what is found is scaled with the root of the number.
    That of the bootstrap, moved to the distance itself: a resample holds fewer different samples, and the distance
    grows as they become fewer, so that percentiles as they are would lie above it.
    """
    some = features[:MOST]
    g, n = generator("bootstrap"), len(some)
    picks = (torch.randint(n, (n,), generator=g) for _ in range(resamples))
    again = torch.tensor([frechet(real, Moments.of(some[i])) for i in picks], dtype=torch.float64)
    levels = torch.tensor([0.025, 0.975], dtype=torch.float64)
    reach = (n / len(features)) ** 0.5 * (again.quantile(levels) - again.mean())
    low, high = reach + frechet(real, Moments.of(features))
    return max(low.item(), 0.0), high.item()

"""The Fréchet distance between two sets of features, each modeled as a Gaussian."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

MAX_BOOTSTRAP = 10_000  # largest number of samples in the bootstrap


class Identity(nn.Module):
    """A feature extractor for torchmetrics that returns its input, for features that are already computed."""

    def __init__(self, width: int):
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_metric(width: int) -> FrechetInceptionDistance:
    """Build torchmetrics' Fréchet distance for features (B, width) instead of images, in a single process."""
    return FrechetInceptionDistance(feature=Identity(width), sync_on_compute=False)


class Moments(NamedTuple):
    """The mean (D,) and the covariance (D, D), float64."""

    mean: Tensor
    cov: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """Compute the moments of features (N, D)."""
        return cls(features.double().mean(0), torch.cov(features.double().T))


def frechet(a: Moments, b: Moments) -> float:
    r"""The squared Fréchet distance between two Gaussians.

    .. math:: |\mu_a - \mu_b|^2 + \mathrm{tr}\, (S_a + S_b - 2 (S_a^{1/2} S_b S_a^{1/2})^{1/2})

    Uses symmetric eigenvalue problems only, several times faster than torchmetrics; for the bootstrap.

    Source: Heusel et al. 2017, arXiv:1706.08500, eq. 6.
    """
    values, vectors = torch.linalg.eigh(a.cov)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.cov @ root).clamp(min=0).sqrt().sum()
    return float((a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * cross)


def frechet_interval(
    real: Moments, features: Tensor, resamples: int, generator: torch.Generator
) -> tuple[float, float]:
    """The 95 % bootstrap interval of the Fréchet distance of features (N, D) to the moments of real data.

    With N > M = `MAX_BOOTSTRAP`, only the first M are resampled, and the interval is scaled by sqrt(M / N). A resample
    has fewer distinct samples and a larger distance: the percentiles are centered to remove this bias.
    """
    some = features[:MAX_BOOTSTRAP]
    n = len(some)
    picks = (torch.randint(n, (n,), generator=generator) for _ in range(resamples))
    again = torch.tensor([frechet(real, Moments.of(some[i])) for i in picks], dtype=torch.float64)
    levels = torch.tensor([0.025, 0.975], dtype=torch.float64)
    reach = (n / len(features)) ** 0.5 * (again.quantile(levels) - again.mean())
    low, high = reach + frechet(real, Moments.of(features))
    return max(low.item(), 0.0), high.item()

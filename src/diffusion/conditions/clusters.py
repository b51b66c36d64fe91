"""Clusters that are found in the data without labels."""

from collections.abc import Iterable
from math import prod
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from src.diffusion.conditions.base import Batch, Condition

MAX_FEATURES = 256  # per channel, at which samples are compared
ITERATIONS = 25  # of k-means


class Clusters(Condition):
    r"""The cluster of each sample, found by k-means in the training data without labels.

    The data are a mixture, :math:`p(x) = \sum_k \pi_k\, p(x | k)`. Its components are simpler than the whole, so that a
    network of the same size learns them better; for a new sample k is drawn from :math:`\pi`.

    Points are compared as they are, signals and images by their shapes: as small, blurred copies of at most 256
    elements per channel, without their brightness and contrast. That separates digits and centered objects; of
    photographs it sees little more than the colors.

    Args:
        num_clusters: K.
        channels, size: C and S of one sample.
        dropout: see `Condition`.

    Attributes:
        centers: (K, D).
        weights: (K,), :math:`\pi`; zeros before the fit. Each cluster counts one more sample than it has, so that none
            has probability 0.

    Source: Bao et al. 2022, arXiv:2212.00362; Adaloglou et al. 2024, arXiv:2403.00570; k-means: Lloyd 1982,
    10.1109/TIT.1982.1056489.
    """

    centers: Tensor
    weights: Tensor
    name = "cluster"

    def __init__(
        self,
        num_clusters: Annotated[int, Ge(2)],
        channels: int,
        size: Iterable[int] = (),
        dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.1,
    ):
        super().__init__(num_clusters, dropout)
        self.register_buffer(
            "centers", torch.zeros(num_clusters, features_of(torch.zeros(1, channels, *size)).shape[1])
        )
        self.register_buffer("weights", torch.zeros(num_clusters))

    @property
    def is_fitted(self) -> bool:
        return bool(self.weights.any())

    def forward(self, batch: Batch) -> Int[Tensor, " batch"]:
        """The cluster of each sample: that of the nearest center."""
        return nearest(features_of(batch["x"]), self.centers.float())

    def sample(self, n: int, generator: torch.Generator) -> Int[Tensor, " n"]:
        u = torch.rand(n, generator=generator, dtype=torch.float64)
        bounds = self.weights.double().cpu().cumsum(0)
        return torch.searchsorted(bounds / bounds[-1], u, right=True).clamp(max=self.num_classes - 1)

    def log_prior(self, cond: Int[Tensor, " n"]) -> Float[Tensor, " n"]:  # type: ignore[override]
        return (self.weights.double() / self.weights.double().sum())[cond].log()

    def check_data(self, batch: Batch, n: int) -> None:
        if n < self.num_classes:
            raise ValueError(f"num_clusters must be <= {n:,}, the number of training samples, got {self.num_classes}")

    def fit(self, batches: Iterable[Batch], generator: torch.Generator) -> None:
        """Run k-means on some thousands of samples on the CPU; the generator chooses the first centers."""
        # Written in torch: importing scikit-learn takes longer than this computation.
        x = torch.cat([features_of(batch["x"]) for batch in batches])
        self.check_data({}, len(x))
        centers = x[torch.randperm(len(x), generator=generator)[: self.num_classes]]
        for _ in range(ITERATIONS):
            which = nearest(x, centers)
            sizes = which.bincount(minlength=self.num_classes)
            means = torch.zeros_like(centers).index_add_(0, which, x) / sizes.clamp(min=1)[:, None]
            centers = torch.where(sizes[:, None] > 0, means, centers)
        sizes = nearest(x, centers).bincount(minlength=self.num_classes) + 1
        self.centers.copy_(centers)
        self.weights.copy_(sizes / sizes.sum())


def features_of(x: Float[Tensor, "n channels *size"]) -> Float[Tensor, "n features"]:
    """The features by which samples are compared: points themselves; signals and images with mean 0 and norm 1."""
    x = x.float()
    if x.ndim == 2:
        return x
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[x.ndim - 3]
    while prod(x.shape[2:]) > MAX_FEATURES:  # means of overlapping windows, so that shifted strokes stay similar
        long = [n > 1 for n in x.shape[2:]]
        kernel, stride, padding = ([a if is_long else b for is_long in long] for a, b in ((4, 1), (2, 1), (1, 0)))
        x = pool(x, kernel, stride, padding, count_include_pad=False)
    x = x.flatten(1)
    # Otherwise all thin digits are alike, since they are mostly black.
    return F.normalize(x - x.mean(1, keepdim=True), eps=0.01)  # or rounding would separate blank images


def nearest(x: Float[Tensor, "n features"], centers: Float[Tensor, "k features"]) -> Int[Tensor, " n"]:
    """The index of the nearest center to each x: the minimum of :math:`|c|^2 - 2 x \\cdot c`."""
    return torch.addmm(centers.square().sum(1), x, centers.T, alpha=-2).argmin(1)

"""Conditions: what the network is given beside the noisy data and the noise level, such as class labels."""

from collections.abc import Iterable, Mapping
from math import prod
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

NULL = -1  # the class that stands for a dropped condition; of conditions that are floats NaN does
MAX_FEATURES = 256  # per channel, at which samples are compared
ITERATIONS = 25  # of k-means

Batch = Mapping[str, Tensor]


class Condition(nn.Module):
    """The condition of a denoiser; the base class of all.

    A new one is a class with `forward`, which takes the condition from a batch of data, and `sample`, which draws it
    for new samples. The network gets it as its argument `cond`, a tensor with one row for each sample: classes (B,)
    int64, or numbers, vectors and images as floats (B, ...). Where there is no condition, its row is :func:`null_like`
    it: -1 for integers, NaN for floats.

    Args:
        num_classes: number of classes that the network has to embed, which becomes its argument of that name; 0 for a
            condition that is no class.
        dropout: probability with which the condition of a training sample is replaced by the null value, so that the
            network also learns to work without it. Classifier-free guidance and given data need that.
    """

    def __init__(self, num_classes: int = 0, dropout: float = 0.0):
        super().__init__()
        self.num_classes, self.dropout = num_classes, dropout

    def forward(self, batch: Batch) -> Tensor | None:
        """The condition (B, ...) of a batch {"x": (B, C, *S), ...} of data; None for none."""
        raise NotImplementedError

    def sample(self, n: int, generator: torch.Generator) -> Tensor | None:
        """Draw the conditions (n, ...) of new samples, on the CPU; the first k of n are those that n = k gives."""
        raise NotImplementedError

    def null(self, n: int) -> Tensor | None:
        """The conditions (n, ...) of samples without one, on the CPU."""
        if self.num_classes:
            return torch.full((n,), NULL)
        one = self.sample(1, torch.Generator())
        return None if one is None else null_like(one).expand(n, *one.shape[1:])

    def drop(self, cond: Shaped[Tensor, "batch *c"], dropped: Bool[Tensor, " batch"]) -> Shaped[Tensor, "batch *c"]:
        """Replace the conditions of some samples by the null value."""
        return torch.where(dropped.view(-1, *[1] * (cond.ndim - 1)), null_like(cond), cond)

    def log_prior(self, cond: Shaped[Tensor, "n *c"]) -> Float[Tensor, " n"]:
        r""":math:`\log p(c)` in nats, for a condition that is found in the data; 0 for one that comes with them.

        With it the density of data given their condition is a bound: :math:`\log p(x) \ge \log p(c) + \log p(x | c)`.
        """
        return torch.zeros(len(cond), dtype=torch.float64, device=cond.device)

    @property
    def is_fitted(self) -> bool:
        """True unless `fit` has to be called before training."""
        return True

    def fit(self, batches: Iterable[Batch], generator: torch.Generator) -> None:
        """Learn from batches of the training data what the condition depends on."""

    def check_data(self, batch: Batch, n: int) -> None:
        """Refuse data that the condition cannot be taken from.

        Args:
            batch: some samples.
            n: number of training samples.

        Raises:
            ValueError: if it cannot.
        """


class NoCondition(Condition):
    """No condition: the network models all data alike."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, batch: Batch) -> None:
        return None

    def sample(self, n: int, generator: torch.Generator) -> None:
        return None


class Labels(Condition):
    """The class labels of the data. New samples are of all classes in turn unless labels are given.

    Args:
        num_classes: number of labels of the data.
        dropout: see `Condition`.

    Raises:
        ValueError: if there are no labels.
    """

    def __init__(self, num_classes: Annotated[int, Ge(0)], dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.1):
        if num_classes < 1:
            raise ValueError(
                f"the data must have labels, but data.num_classes is {num_classes}; set it to the number of labels if "
                "there are any, or use condition=none or condition=clusters"
            )
        super().__init__(num_classes, dropout)

    def forward(self, batch: Batch) -> Int[Tensor, " batch"]:
        return batch["label"]

    def sample(self, n: int, generator: torch.Generator) -> Int[Tensor, " n"]:
        return torch.arange(n) % self.num_classes

    def check_data(self, batch: Batch, n: int) -> None:
        if "label" not in batch:
            raise ValueError('the data must have labels, batches {"x": ..., "label": ...}; or use condition=none')


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

    def log_prior(self, cond: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
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


def null_like(cond: Shaped[Tensor, "*c"]) -> Shaped[Tensor, "*c"]:
    """The null value in place of every condition: -1 for integers, NaN for floats."""
    return torch.full_like(cond, torch.nan if cond.is_floating_point() else NULL)


def is_class(cond: Tensor | None) -> bool:
    """True for conditions that are one class each, (B,) integers."""
    return cond is not None and cond.ndim == 1 and not cond.is_floating_point()


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

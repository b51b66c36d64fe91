"""Groups of alike data, found without labels, to condition on."""

from collections.abc import Iterable
from math import prod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from src.utils.errors import UserError
from src.utils.seeding import generator

NUMBERS = 256  # a channel, at which data are compared
SAMPLES = 20_000  # more make the clusters no better
ROUNDS = 25  # of k-means; more change nothing that matters


class Clusters(nn.Module):
    r"""K clusters of the data, by k-means, for a denoiser that is told the cluster of each sample.

    The data are a mixture, :math:`p(x) = \sum_k \pi_k\, p(x | k)`. Its parts are simpler than the whole, so that a net
    of the same size learns them better, and the mixture is as good as they are: for a new sample k is drawn from
    :math:`\pi`. Labels, the names of the data or their number need not be known.

    Points are compared as they are, signals and images by their shapes: in small, blurred copies of at most 256
    numbers a channel, whatever their brightness and contrast. That tells digits apart, and centred objects; of
    photographs it sees little more than the colours.

    Args:
        count: K.
        shape: (C, *S) of one sample.

    Attributes:
        centres: (K, D).
        shares: (K,), :math:`\pi`; zeros until the clusters are found. Each cluster counts one more sample than it has,
            so that none is impossible.

    Source: Bao et al. 2022, arXiv:2212.00362; Adaloglou et al. 2024, arXiv:2403.00570; k-means: Lloyd 1982,
    10.1109/TIT.1982.1056489.
    """

    centres: Tensor
    shares: Tensor

    def __init__(self, count: int, shape: tuple[int, ...]):
        super().__init__()
        self.register_buffer("centres", torch.zeros(count, flat(torch.zeros(1, *shape)).shape[1]))
        self.register_buffer("shares", torch.zeros(count))

    @property
    def count(self) -> int:
        """K."""
        return len(self.shares)

    @property
    def found(self) -> bool:
        """Whether they are."""
        return bool(self.shares.any())

    def forward(self, x_0: Float[Tensor, "batch *data"]) -> Int[Tensor, " batch"]:
        """The cluster of each sample: that of the nearest centre."""
        return nearest(flat(x_0), self.centres.float())

    def check(self, n: int) -> None:
        """Refuse to find them among n data that are fewer than they.

        Raises:
            UserError: saying so.
        """
        if n < self.count:
            raise UserError(f"clusters={self.count} is more than the {n:,} training samples; use fewer")

    def find(self, data: Iterable[Tensor], seed: int) -> None:
        """Find them.

        Args:
            data: parts (M, C, *S) on the CPU, some thousands of samples in all.
            seed: chooses the samples that the clusters begin with.
        """
        # Written in torch: the one of scikit-learn takes longer to import than this to compute.
        x = torch.cat([flat(part) for part in data])
        self.check(len(x))
        centres = x[torch.randperm(len(x), generator=generator("first centres", seed))[: self.count]]
        for _ in range(ROUNDS):
            which = nearest(x, centres)
            sizes = which.bincount(minlength=self.count)
            means = torch.zeros_like(centres).index_add_(0, which, x) / sizes.clamp(min=1)[:, None]
            centres = torch.where(sizes[:, None] > 0, means, centres)
        sizes = nearest(x, centres).bincount(minlength=self.count) + 1
        self.centres.copy_(centres)
        self.shares.copy_(sizes / sizes.sum())

    def draw(self, n: int, seed: int) -> Int[Tensor, " n"]:
        """Those of n new samples, on the CPU; that of sample i is a function of (seed, i)."""
        u = torch.rand(n, generator=generator("cluster of each sample", seed), dtype=torch.float64)
        bounds = self.shares.double().cpu().cumsum(0)
        return torch.searchsorted(bounds / bounds[-1], u, right=True).clamp(max=self.count - 1)

    def log_share(self, which: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        r""":math:`\log \pi_k` of the clusters of some data, in nats.

        With it, what a model says of data in their clusters is a bound for the mixture:
        :math:`\log p(x) \ge \log \pi_k + \log p(x | k)`.
        """
        return (self.shares.double() / self.shares.double().sum())[which].log()


def flat(x: Float[Tensor, "n channels *size"]) -> Float[Tensor, "n numbers"]:
    """The numbers by which data are compared: those of a point; of signals and images of mean 0 and length 1."""
    x = x.float()
    if x.ndim == 2:
        return x
    pool = F.avg_pool1d if x.ndim == 3 else F.avg_pool2d
    while prod(x.shape[2:]) > NUMBERS:  # means of windows that overlap, so that a stroke beside another is near to it
        x = pool(x, 4, 2, 1, count_include_pad=False)
    x = x.flatten(1)
    # Otherwise all thin digits are alike, since all of them are mostly black.
    return F.normalize(x - x.mean(1, keepdim=True), eps=0.01)  # or blank images would be told apart by rounding


def nearest(x: Float[Tensor, "n numbers"], centres: Float[Tensor, "k numbers"]) -> Int[Tensor, " n"]:
    """The nearest centre to each x: that of the least :math:`|c|^2 - 2 x \\cdot c`."""
    return torch.addmm(centres.square().sum(1), x, centres.T, alpha=-2).argmin(1)

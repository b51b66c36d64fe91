"""How far two sets of samples are apart, seen along many directions."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from src.utils.seeding import generator


class SlicedWasserstein(Metric):
    r"""The sliced Wasserstein distance of order 2 between two sets of samples of any shape, taken as vectors.

    .. math:: SW_2(X, Y)^2 = \frac{1}{P} \sum_{p=1}^{P} \int_0^1
              \left( F^{-1}_{\theta_p \cdot X}(u) - F^{-1}_{\theta_p \cdot Y}(u) \right)^2 du

    with P directions theta_p, uniform on the unit sphere, and the quantile functions F^-1 of the projected samples:
    steps, whose integral is exact for sets of any two sizes. It is 0 for equal sets alone (as P grows), and in the
    units of the data. Two finite sets from one law are apart too: compare with the distance of data from data.

    Called as torchmetrics' FID is: `update(x, real=True)` and `update(x, real=False)`, then `compute()`.

    Args:
        projections: P.
        seed: of the directions, which are a function of it and of the number of dimensions.

    Raises:
        ValueError: where the samples of the two sets are not of one size, or one set is empty.

    Source: Rabin, Peyre, Delon, Bernot 2011, Wasserstein barycenter and its application to texture mixing;
        Bonneel, Rabin, Peyre, Pfister 2015, Sliced and Radon Wasserstein barycenters of measures.
    """

    full_state_update = False
    higher_is_better = False
    # Projections rather than samples: of images they are far fewer.
    real: list[Tensor]
    fake: list[Tensor]

    def __init__(self, projections: int = 128, seed: int = 0):
        super().__init__()
        if projections < 1:
            raise ValueError(f"projections is at least 1, not {projections}")
        self.projections, self.seed = projections, seed
        self.vectors: Tensor | None = None  # (dim, P), once the dimension is known
        self.add_state("real", default=[], dist_reduce_fx="cat")
        self.add_state("fake", default=[], dist_reduce_fx="cat")

    def directions(self, dim: int) -> Float[Tensor, "dim projections"]:
        """Unit vectors of `dim` dimensions, as columns, float32."""
        normal = torch.randn(
            dim, self.projections, generator=generator(self.seed, "directions", dim), dtype=torch.float64
        )
        return (normal / normal.norm(dim=0)).float()

    def update(self, x: Float[Tensor, "batch *shape"], real: bool) -> None:
        """Take in samples of the one set, or of the other."""
        flat = x.detach().flatten(1).float()
        if self.vectors is None:
            self.vectors = self.directions(flat.shape[1])
        if flat.shape[1] != len(self.vectors):
            raise ValueError(f"samples of {flat.shape[1]} and of {len(self.vectors)} numbers cannot be compared")
        with torch.autocast(flat.device.type, enabled=False):  # bf16 would round the distances away
            projected = flat @ self.vectors.to(flat.device)
        (self.real if real else self.fake).append(projected)

    def compute(self) -> Tensor:
        """The distance, a number ()."""
        if not len(self.real) or not len(self.fake):
            raise ValueError("the sliced Wasserstein distance needs samples of both sets")
        real, fake = (cast(Tensor, dim_zero_cat(x)) for x in (self.real, self.fake))
        return squared_distances(real, fake).mean().sqrt()

    def reset(self) -> None:
        super().reset()
        self.vectors = None


def squared_distances(x: Float[Tensor, "n p"], y: Float[Tensor, "m p"]) -> Float[Tensor, " p"]:
    """The squared Wasserstein distances of order 2 between the columns of x and of y, one by one.

    The quantile functions are constant between the multiples of 1/n and of 1/m; in units of 1/(nm) both are integers.
    """
    n, m = len(x), len(y)
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique().to(x.device)
    widths = (torch.diff(ends, prepend=ends.new_zeros(1)) / (n * m)).to(x)
    x, y = x.sort(0).values[(ends - 1) // m], y.sort(0).values[(ends - 1) // n]
    return (widths[:, None] * (x - y).square()).sum(0)  # no matrix product, which autocast would round

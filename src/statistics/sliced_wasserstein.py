"""The sliced Wasserstein distance between two sets of samples."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


def random_directions(dim: int, projections: int, generator: torch.Generator) -> Float[Tensor, "dim projections"]:
    """Draw unit vectors of `dim` dimensions, uniform on the sphere, as columns, float32."""
    normal = torch.randn(dim, projections, generator=generator, dtype=torch.float64)
    return (normal / normal.norm(dim=0)).float()


class SlicedWassersteinDistance(Metric):
    r"""The sliced Wasserstein distance of order 2 between two sets of samples of any shape, flattened to vectors.

    .. math:: SW_2(X, Y)^2 = \frac{1}{P} \sum_{p=1}^{P} \int_0^1
              \left( F^{-1}_{\theta_p \cdot X}(u) - F^{-1}_{\theta_p \cdot Y}(u) \right)^2 du

    with P directions theta_p and the quantile functions F^-1 of the projected samples: step functions, integrated
    exactly for sets of any two sizes. It is in the units of the data, and 0 only for equal sets (as P grows). Two
    finite sets of one distribution have a positive distance too: compare with the distance between real data.

    The interface is that of FID in torchmetrics: `update(x, real=True)` and `update(x, real=False)`, then `compute()`.

    Args:
        directions: (D, P) unit vectors, such as `random_directions(D, 128, generator)`, for samples of D elements.

    Raises:
        ValueError: if samples do not have D elements, or a set is empty.

    Source: Rabin, Peyre, Delon, Bernot 2011, Wasserstein barycenter and its application to texture mixing;
        Bonneel, Rabin, Peyre, Pfister 2015, Sliced and Radon Wasserstein barycenters of measures.
    """

    full_state_update = False
    higher_is_better = False
    # The states hold projections: fewer numbers than images.
    real: list[Tensor]
    fake: list[Tensor]

    def __init__(self, directions: Float[Tensor, "dim projections"]):
        super().__init__()
        self.directions = directions
        self.add_state("real", default=[], dist_reduce_fx="cat")
        self.add_state("fake", default=[], dist_reduce_fx="cat")

    def update(self, x: Float[Tensor, "batch *shape"], real: bool) -> None:
        """Add samples to the real or to the fake set."""
        flat = x.flatten(1).float()
        if flat.shape[1] != len(self.directions):
            raise ValueError(f"samples must have {len(self.directions)} elements, got {flat.shape[1]}")
        with torch.autocast(flat.device.type, enabled=False):  # bf16 would round the distances away
            projected = flat @ self.directions.to(flat.device)
        (self.real if real else self.fake).append(projected)

    def compute(self) -> Tensor:
        """The distance, with shape ()."""
        if not len(self.real) or not len(self.fake):
            raise ValueError(
                "the sliced Wasserstein distance needs samples of both sets; "
                "call update with real=True and with real=False"
            )
        real, fake = (cast(Tensor, dim_zero_cat(x)) for x in (self.real, self.fake))
        return squared_distances(real, fake).mean().sqrt()


def squared_distances(x: Float[Tensor, "n p"], y: Float[Tensor, "m p"]) -> Float[Tensor, " p"]:
    """The squared Wasserstein distances of order 2 between each column of x and the same column of y.

    The quantile functions are constant between multiples of 1/n and of 1/m; in units of 1/(nm) both are integers.
    """
    n, m = len(x), len(y)
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique().to(x.device)
    widths = (torch.diff(ends, prepend=ends.new_zeros(1)) / (n * m)).to(x)
    x, y = x.sort(0).values[(ends - 1) // m], y.sort(0).values[(ends - 1) // n]
    return (widths[:, None] * (x - y).square()).sum(0)  # not a matrix product, which autocast would round

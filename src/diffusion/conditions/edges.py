"""Edge maps, as conditions that are computed from the samples."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


class Edges:
    r"""The strength of the edges of signals, images and volumes by Sobel's derivatives, over all channels.

    .. math:: e = \sqrt{\frac{1}{C} \sum_{c, a} (d_a * x_c)^2}, \quad
              d_a = \tfrac12 [-1, 0, 1] \text{ along axis } a, \ \tfrac14 [1, 2, 1] \text{ along the others}

    The ends are repeated. It is exact where x is linear: its slope per element.

    Args:
        shape: (C, *S) of a sample.

    Source: Sobel, Feldman 1968, A 3x3 isotropic gradient operator for image processing.
    """

    def __init__(self, shape: Sequence[int]):
        if len(shape) < 2:
            raise ValueError(f"edges need signals, images, fields or volumes, got samples of shape {tuple(shape)}")

    def __call__(self, x: Float[Tensor, "batch channels *size"]) -> Float[Tensor, "batch 1 *size"]:
        axes = range(2, x.ndim)
        squares = x.new_zeros(())
        for along in axes:
            slope = x
            for axis in axes:
                slope = correlated(slope, axis, (-0.5, 0.0, 0.5) if axis == along else (0.25, 0.5, 0.25))
            squares = squares + slope.square()
        return squares.mean(1, keepdim=True).sqrt()


def correlated(x: Tensor, axis: int, weights: Sequence[float]) -> Tensor:
    """Correlate with three weights along an axis, with repeated ends."""
    moved = x.movedim(axis, -1)
    flat = F.pad(moved.flatten(0, -2)[:, None], (1, 1), mode="replicate")[:, 0].view(*moved.shape[:-1], -1)
    n = moved.shape[-1]
    return sum(w * flat.narrow(-1, i, n) for i, w in enumerate(weights)).movedim(-1, axis)  # type: ignore[union-attr]

"""Encodings of the noise level: a scalar as cosines and sines, from which a network tells levels apart."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from src.utils.ranges import PositiveFloat


class SinusoidalEmbedding(nn.Module):
    r"""Cosines and sines of a scalar at geometrically spaced frequencies.

    .. math:: (\cos(c\,\omega_i), \sin(c\,\omega_i)), \quad \omega_i = P^{-i / (d/2)}

    Args:
        dim: width d of the embedding, even.
        max_period: P, in the units of c. The default suits c_noise in [0, 1000].

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5; Ho et al. 2020, arXiv:2006.11239, appendix B.
    """

    frequencies: Tensor

    def __init__(self, dim: int, max_period: PositiveFloat = 10_000.0):
        super().__init__()
        half = half_of(dim)
        frequencies = torch.exp(-math.log(max_period) * torch.arange(half) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, c: Float[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
        return waves(c, self.frequencies)


class FourierEmbedding(nn.Module):
    r"""Cosines and sines of a scalar at random frequencies, drawn once.

    .. math:: (\cos(2 \pi w_i c / 1000), \sin(2 \pi w_i c / 1000)), \quad w_i \sim N(0, s^2)

    Args:
        dim: width d of the embedding, even.
        scale: s, in cycles per 1000 units of c; its inverse is the size of the steps in c / 1000 that are told apart.

    Source: Song et al. 2021, arXiv:2011.13456, appendix C; Tancik et al. 2020, arXiv:2006.10739, section 4.
    """

    frequencies: Tensor

    def __init__(self, dim: int, scale: PositiveFloat = 4.0):
        super().__init__()
        self.register_buffer("frequencies", scale * torch.randn(half_of(dim)))

    def forward(self, c: Float[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
        return waves(2 * math.pi / 1000 * c.float(), self.frequencies)


class LearnedEmbedding(FourierEmbedding):
    """Cosines and sines of a scalar at frequencies that start as random ones and are trained with the network.

    Args:
        dim, scale: as in `FourierEmbedding`.
    """

    def __init__(self, dim: int, scale: PositiveFloat = 4.0):
        super().__init__(dim, scale)
        self.frequencies = nn.Parameter(self.frequencies)


def half_of(dim: int) -> int:
    """How many frequencies fill an embedding, half cosines and half sines."""
    if dim % 2:
        raise ValueError(f"the width of an embedding of the noise level is even, not {dim}")
    return dim // 2


def waves(c: Float[Tensor, " batch"], frequencies: Float[Tensor, " half"]) -> Float[Tensor, "batch dim"]:
    """Cosines, then sines.

    Angles reach 1000 rad, beyond what bf16 resolves, so they are taken in float32 whatever autocast says.
    """
    angles = c.float()[:, None] * frequencies.float()
    return torch.cat([angles.cos(), angles.sin()], dim=1).to(frequencies.dtype)

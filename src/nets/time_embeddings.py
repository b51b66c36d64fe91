"""Embeddings of the noise level c_noise: cosines and sines of one scalar at several frequencies."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from src.utils.ranges import PositiveFloat


class SinusoidalEmbedding(nn.Module):
    r"""Cosines and sines of a scalar at fixed, geometrically spaced frequencies.

    .. math:: (\cos(c\,\omega_i), \sin(c\,\omega_i)), \quad \omega_i = P^{-i / (d/2)}

    Args:
        dim: dimension d of the embedding, even.
        max_period: P, in the units of c. The default suits c_noise in [0, 1000].

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5; Ho et al. 2020, arXiv:2006.11239, appendix B.
    """

    frequencies: Tensor

    def __init__(self, dim: int, max_period: PositiveFloat = 10_000.0):
        super().__init__()
        half = num_frequencies(dim)
        frequencies = torch.exp(-math.log(max_period) * torch.arange(half) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, c: Float[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
        return cos_sin(c, self.frequencies)


class FourierEmbedding(nn.Module):
    r"""Cosines and sines of a scalar at random frequencies, drawn once and not trained.

    .. math:: (\cos(2 \pi w_i c / 1000), \sin(2 \pi w_i c / 1000)), \quad w_i \sim N(0, s^2)

    Args:
        dim: dimension d of the embedding, even.
        scale: s, in cycles per 1000 units of c. The embedding resolves steps of about 1 / s in c / 1000.

    Source: Song et al. 2021, arXiv:2011.13456, appendix C; Tancik et al. 2020, arXiv:2006.10739, section 4.
    """

    frequencies: Tensor

    def __init__(self, dim: int, scale: PositiveFloat = 4.0):
        super().__init__()
        self.register_buffer("frequencies", scale * torch.randn(num_frequencies(dim)))

    def forward(self, c: Float[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
        return cos_sin(2 * math.pi / 1000 * c.float(), self.frequencies)


class LearnedEmbedding(FourierEmbedding):
    """Cosines and sines of a scalar at frequencies that are initialized at random and trained with the network.

    Args:
        dim, scale: see `FourierEmbedding`.
    """

    def __init__(self, dim: int, scale: PositiveFloat = 4.0):
        super().__init__(dim, scale)
        self.frequencies = nn.Parameter(self.frequencies)


def num_frequencies(dim: int) -> int:
    """The number of frequencies of an embedding, half cosines and half sines."""
    if dim % 2:
        raise ValueError(f"the dimension of a time embedding must be even, got {dim}; set net.embed_dim")
    return dim // 2


def cos_sin(c: Float[Tensor, " batch"], frequencies: Float[Tensor, " half"]) -> Float[Tensor, "batch dim"]:
    """Cosines, then sines, of c times each frequency.

    Angles reach 1000 rad, more than bf16 resolves, so they are computed in float32 even under autocast.
    """
    angles = c.float()[:, None] * frequencies.float()
    return torch.cat([angles.cos(), angles.sin()], dim=1).to(frequencies.dtype)

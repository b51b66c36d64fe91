"""Encoders: the parts of a network that take its conditions in, as an embedding, as channels or as tokens."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

LOWEST, HIGHEST = 0.5, 16.0  # frequencies of standardized numbers, in radians per standard deviation


class Encoded(NamedTuple):
    """An encoded condition, in one or more of three ways; None for the others.

    Attributes:
        embedding: (B, embed_dim), added to that of the noise level.
        channels: (B, C', *S), concatenated to x.
        tokens: (B, N, W), attended to by cross-attention.
        mask: (B, N), True for the tokens that there are; None for all.
    """

    embedding: Tensor | None = None
    channels: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None


class Encoder(nn.Module):
    """The base class of encoders; a new one implements `forward`.

    Attributes:
        channels: C', the channels that it concatenates to x.
        token_width: W, the width of its tokens; 0 for none.
    """

    channels = 0
    token_width = 0

    def forward(self, cond: Tensor, x: Tensor) -> Encoded:
        """Encode a condition (B, ...), as `Condition.prepare` gives it, for the input x (B, C, *S)."""
        raise NotImplementedError


class ClassEncoder(Encoder):
    """A learned embedding of each class and of its absence."""

    def __init__(self, num_classes: int, embed_dim: int):
        super().__init__()
        self.embedding = nn.Embedding(num_classes + 1, embed_dim)

    def forward(self, cond: Int[Tensor, " batch"], x: Tensor) -> Encoded:
        return Encoded(embedding=self.embedding(cond + 1))


class VectorEncoder(Encoder):
    r"""Two dense layers on Fourier features of each number, which are zero for one that is missing.

    .. math:: (1, v, \cos(\omega_1 v), \sin(\omega_1 v), \cos(\omega_2 v), \dots), \quad
              \omega_i \text{ spaced geometrically from 0.5 to 16}

    Args:
        size: k, the length of a vector, of standardized numbers.
        embed_dim: dimension of the embedding.
        num_frequencies: number of the frequencies :math:`\omega_i`.
    """

    frequencies: Tensor

    def __init__(self, size: int, embed_dim: int, num_frequencies: int = 6):
        super().__init__()
        frequencies = LOWEST * (HIGHEST / LOWEST) ** torch.linspace(0, 1, num_frequencies)
        self.register_buffer("frequencies", frequencies, persistent=False)
        features = size * (2 + 2 * num_frequencies)
        self.layers = nn.Sequential(nn.Linear(features, embed_dim), nn.SiLU(), nn.Linear(embed_dim, embed_dim))

    def forward(self, cond: Float[Tensor, "batch k"], x: Tensor) -> Encoded:
        known, v = ~cond.isnan(), cond.nan_to_num()[..., None]
        angles = v * self.frequencies.to(v)
        features = torch.cat([torch.ones_like(v), v, angles.cos(), angles.sin()], 2) * known[..., None]
        return Encoded(embedding=self.layers(features.flatten(1).to(x)))


class ImageEncoder(Encoder):
    """The image resized to x by nearest neighbors, 0 where it is missing, and a channel that says where it is known.

    Args:
        channels: channels of the image.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels + 1

    def forward(self, cond: Float[Tensor, "batch channels *size"], x: Tensor) -> Encoded:
        if cond.shape[2:] != x.shape[2:]:
            cond = F.interpolate(cond, x.shape[2:], mode="nearest")
        known = ~cond.isnan().any(1, keepdim=True)
        return Encoded(channels=torch.cat([cond.nan_to_num(), known.to(cond.dtype)], 1).to(x))

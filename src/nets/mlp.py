"""A plain network of dense layers, for signals, points and small images."""

from collections.abc import Sequence
from math import prod
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.nets.base import Net, NetOptions
from src.nets.layers import FourierFeatures, LayerNorm, zero_init
from src.utils.ranges import NonNegativeInt, PositiveFloat, PositiveInt, Probability


class MLPBlock(nn.Module):
    """A residual pair of dense layers, with the embedding added between them.

    Shapes: h (B, width), embedding (B, embed_dim); result (B, width).
    """

    def __init__(self, width: int, embed_dim: int, dropout: float):
        super().__init__()
        self.norm = LayerNorm(width)
        self.linear = nn.Linear(width, width)
        self.embed_proj = nn.Linear(embed_dim, width)
        self.out = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), zero_init(nn.Linear(width, width)))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        return h + self.out(self.linear(self.norm(h)) + self.embed_proj(embedding))


class MLP(Net):
    """Residual dense layers on the flattened input, with a head for each `channels` of the output.

    Args:
        channels, size: see `Net`; any number of spatial axes.
        width: width of the layers.
        depth: number of residual blocks, each of two layers.
        dropout: dropout probability in the blocks.
        fourier_features: number of random Fourier features of the input; for low-dimensional data with fine details.
        fourier_scale: standard deviation of their frequencies, in radians per unit of x.
        embed_dim: see `Net`. Default: `width`.
        **options: see `Net`.
    """

    def __init__(
        self,
        channels: PositiveInt,
        size: Sequence[PositiveInt],
        width: PositiveInt = 512,
        depth: PositiveInt = 4,
        dropout: Probability = 0.0,
        fourier_features: NonNegativeInt = 0,
        fourier_scale: PositiveFloat = 4.0,
        embed_dim: PositiveInt | None = None,
        **options: Unpack[NetOptions],
    ):
        embed_dim = width if embed_dim is None else embed_dim
        super().__init__(channels, size, embed_dim, **options)
        features = FourierFeatures(self.in_channels * prod(size), fourier_features, fourier_scale)
        self.stem = nn.Sequential(features, nn.Linear(features.out_features, width))
        self.blocks = nn.ModuleList(MLPBlock(width, embed_dim, dropout) for _ in range(depth))
        self.norm = LayerNorm(width)
        # Mean and learned variance have a head each (Sohl-Dickstein et al. 2015, arXiv:1503.03585, section 2.2).
        heads = [min(channels, self.out_channels - start) for start in range(0, self.out_channels, channels)]
        self.heads = nn.ModuleList(zero_init(nn.Linear(width, n * prod(size))) for n in heads)

    def body(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.stem(x.flatten(1))
        for block in self.blocks:
            h = self.run_block(block, h, embedding)
        h = F.silu(self.norm(h))
        return torch.cat([head(h).unflatten(1, (-1, *self.size)) for head in self.heads], 1)

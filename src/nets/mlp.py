"""A plain network of dense layers, for signals, points and small images."""

from collections.abc import Callable, Sequence
from math import prod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from src.nets.encodings import SinusoidalEmbedding
from src.nets.layers import Conditioning, FourierFeatures, zero_init
from src.utils.ranges import NonNegativeInt, PositiveFloat, PositiveInt, Probability


class Dense(nn.Module):
    """A residual pair of dense layers, with the embedding added between them. Shapes: (B, D) and (B, E) to (B, D)."""

    def __init__(self, width: int, embedding: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)
        self.embedding = nn.Linear(embedding, width)
        self.out = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), zero_init(nn.Linear(width, width)))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        return h + self.out(self.linear(self.norm(h)) + self.embedding(embedding))


class MLP(nn.Module):
    """Residual dense layers on the flattened input; the embedding is added in each.

    Shapes: x (B, inputs * channels, *size), c_noise (B,), cond None or labels (B,) int64 in [-1, num_classes), -1 for
    none; result (B, outputs * channels, *size).

    Args:
        channels: channels of the data.
        size: spatial size, of any number of axes.
        hidden: width of the layers.
        layers: number of residual pairs of layers.
        dropout: dropout in each of them.
        embedding: width of what is made of the noise level and the label; None for that of the layers.
        fourier: number of random Fourier features of the input; for data of few dimensions with fine details.
        fourier_scale: of these, in radians per unit of x.
        num_classes: labels to condition on; 0 for none.
        encoding: makes what encodes the noise level, of a width.
        inputs: tensors of the shape of the data that x holds, side by side in channels; 2 with self-conditioning.
        outputs: tensors of the shape of the data that the result holds, each with a head of its own: the mean, and
            where it is learned the variance (Sohl-Dickstein et al. 2015, arXiv:1503.03585, section 2.2).
    """

    def __init__(
        self,
        channels: PositiveInt,
        size: Sequence[PositiveInt],
        hidden: PositiveInt = 512,
        layers: PositiveInt = 4,
        dropout: Probability = 0.0,
        embedding: PositiveInt | None = None,
        fourier: NonNegativeInt = 0,
        fourier_scale: PositiveFloat = 4.0,
        num_classes: NonNegativeInt = 0,
        encoding: Callable[[int], nn.Module] = SinusoidalEmbedding,
        inputs: PositiveInt = 1,
        outputs: PositiveInt = 1,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.shape = (channels, *size)
        embedding = embedding or hidden
        self.conditioning = Conditioning(embedding, num_classes, encoding)
        features = FourierFeatures(inputs * channels * prod(size), fourier, fourier_scale)
        self.stem = nn.Sequential(features, nn.Linear(features.outputs, hidden))
        self.layers = nn.ModuleList(Dense(hidden, embedding, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.heads = nn.ModuleList(zero_init(nn.Linear(hidden, prod(self.shape))) for _ in range(outputs))

    def forward(
        self,
        x: Float[Tensor, "batch in_channels *size"],
        c_noise: Float[Tensor, " batch"],
        cond: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch out_channels *size"]:
        embedding = F.silu(self.conditioning(c_noise, cond))
        h = self.stem(x.flatten(1))
        for layer in self.layers:
            h = layer(h, embedding)
        h = F.silu(self.norm(h))
        return torch.cat([head(h).view(-1, *self.shape) for head in self.heads], 1)

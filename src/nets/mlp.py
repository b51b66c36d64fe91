"""A plain network of dense layers, for signals, points and small images."""

from collections.abc import Sequence
from math import prod

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from src.nets.layers import Conditioning, FourierFeatures, zero_init


class Dense(nn.Module):
    """A residual pair of dense layers, with the embedding added between them. Shapes: (B, D) and (B, D) to (B, D)."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)
        self.embedding = nn.Linear(width, width)
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
        fourier: number of random Fourier features of the input; for data of few dimensions with fine details.
        fourier_scale: of these, in radians per unit of x.
        num_classes: labels to condition on; 0 for none.
        inputs: tensors of the shape of the data that x holds, side by side in channels; 2 with self-conditioning.
        outputs: tensors of the shape of the data that the result holds; 2 where the variance is learned.
    """

    def __init__(
        self,
        channels: int,
        size: Sequence[int],
        hidden: int = 512,
        layers: int = 4,
        dropout: float = 0.0,
        fourier: int = 0,
        fourier_scale: float = 4.0,
        num_classes: int = 0,
        inputs: int = 1,
        outputs: int = 1,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.out_shape = (outputs * channels, *size)
        self.conditioning = Conditioning(hidden, num_classes)
        features = FourierFeatures(inputs * channels * prod(size), fourier, fourier_scale)
        self.stem = nn.Sequential(features, nn.Linear(features.outputs, hidden))
        self.layers = nn.ModuleList(Dense(hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.head = zero_init(nn.Linear(hidden, prod(self.out_shape)))

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
        return self.head(F.silu(self.norm(h))).view(-1, *self.out_shape)

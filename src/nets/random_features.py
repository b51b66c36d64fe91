"""Features of a network with random weights, for comparing samples where no trained network is available."""

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from src.nets.layers import CONV
from src.utils.ranges import NonNegativeInt, PositiveInt


class RandomFeatures(nn.Module):
    """A convolutional pyramid with fixed random weights: each level halves the size and applies ReLU.

    Random features compare local structure, not meaning; that takes a trained network.

    Shapes: x (B, channels, *size); result `depth` tensors (B, width, ...), of unit variance for white noise.

    Args:
        channels: channels of the data.
        size: spatial size, (L,), (H, W) or (D, H, W).
        width: channels of each level.
        depth: number of levels.
        seed: seed of the weights.

    Raises:
        ValueError: if `size` has more than three axes, or a side is smaller than 2**depth.
    """

    def __init__(
        self,
        channels: PositiveInt,
        size: Sequence[PositiveInt],
        width: PositiveInt = 32,
        depth: PositiveInt = 3,
        seed: NonNegativeInt = 0,
    ):
        super().__init__()
        if len(size) not in CONV:
            raise ValueError(f"data.size must have one to three axes for random features, got {list(size)}")
        if min(size) < 2**depth:
            raise ValueError(f"data.size must be >= {2**depth} for {depth} levels of random features, got {list(size)}")
        g = torch.Generator().manual_seed(seed)
        self.levels = nn.ModuleList()
        for i in range(depth):
            conv = CONV[len(size)](width if i else channels, width, 3, stride=2, padding=1)
            fan_in = prod(conv.weight.shape[1:])
            gain = (2 if i else 1) ** 0.5
            conv.weight.data = torch.randn(conv.weight.shape, generator=g) * gain / fan_in**0.5
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            self.levels.append(conv)

    def forward(self, x: Float[Tensor, "batch channels *size"]) -> list[Tensor]:
        features = []
        for conv in self.levels:
            features.append(x := conv(x))
            x = x.relu()
        return features

"""A small convolutional autoencoder with a dense bottleneck, for signals, images and volumes."""

from collections.abc import Sequence
from math import prod
from typing import Unpack

from torch import Tensor, nn
from torch.nn import functional as F

from src.nets.base import Net, NetOptions
from src.nets.layers import CONV, check_spatial_size, zero_init
from src.utils.ranges import PositiveInt


class ConvStage(nn.Module):
    """A layer, the embedding added to each channel of its output, and SiLU.

    Shapes: x as the layer takes it, embedding (B, embed_dim); result (B, channels, *S).
    """

    def __init__(self, layer: nn.Module, channels: int, embed_dim: int):
        super().__init__()
        self.layer = layer
        self.embed_proj = nn.Linear(embed_dim, channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.layer(x)
        return F.silu(h + self.embed_proj(embedding).unflatten(1, (-1,) + (1,) * (h.ndim - 2)))


class ConvAutoencoder(Net):
    """Two strided convolutions, two dense layers around a bottleneck, and two convolutions after upsampling.

    Noise does not fit through the bottleneck: use parameterization=x0.

    Args:
        channels, size: see `Net`; one to three spatial axes, each a multiple of 4.
        width: channels at half the size; twice as many at a quarter of it.
        bottleneck: width of the bottleneck.
        tanh_output: end with tanh, which bounds the result to [-1, 1]; for parameterization=x0.
        embed_dim, **options: see `Net`.

    Raises:
        ValueError: if `size` has more than three axes or is not divisible by 4.
    """

    def __init__(
        self,
        channels: PositiveInt,
        size: Sequence[PositiveInt],
        width: PositiveInt = 32,
        bottleneck: PositiveInt = 512,
        tanh_output: bool = False,
        embed_dim: PositiveInt = 128,
        **options: Unpack[NetOptions],
    ):
        check_spatial_size(size, 4, "a convolutional autoencoder, which halves the size twice", "net=mlp")
        super().__init__(channels, size, embed_dim, **options)
        self.tanh_output = tanh_output
        conv, quarter = CONV[len(size)], [s // 4 for s in size]

        def stage(layer: nn.Module, channels: int) -> ConvStage:
            return ConvStage(layer, channels, embed_dim)

        def upsample(c_in: int, c_out: int) -> nn.Module:
            return nn.Sequential(nn.Upsample(scale_factor=2), conv(c_in, c_out, 3, padding=1))

        flat = 2 * width * prod(quarter)
        self.stages = nn.ModuleList(
            [
                stage(conv(self.in_channels, width, 3, stride=2, padding=1), width),
                stage(conv(width, 2 * width, 3, stride=2, padding=1), 2 * width),
                stage(nn.Sequential(nn.Flatten(), nn.Linear(flat, bottleneck)), bottleneck),
                stage(nn.Sequential(nn.Linear(bottleneck, flat), nn.Unflatten(1, (2 * width, *quarter))), 2 * width),
                stage(upsample(2 * width, width), width),
            ]
        )
        self.head = zero_init(upsample(width, self.out_channels))

    def body(self, x: Tensor, embedding: Tensor) -> Tensor:
        for stage in self.stages:
            x = self.run_block(stage, x, embedding)
        x = self.head(x)
        return x.tanh() if self.tanh_output else x

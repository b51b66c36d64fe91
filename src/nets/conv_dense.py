"""A small convolutional network around a dense bottleneck, as of first tutorials, for images and signals."""

from collections.abc import Callable, Sequence
from math import prod

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from src.nets.encodings import SinusoidalEmbedding
from src.nets.layers import CONV, Conditioning, check_size, zero_init
from src.utils.ranges import NonNegativeInt, PositiveInt


class Stage(nn.Module):
    """A layer, to whose result the embedding is added before it is rectified.

    Shapes: x as the layer takes it, embedding (B, E); result (B, C, *S), as the layer gives it.
    """

    def __init__(self, layer: nn.Module, channels: int, embedding: int):
        super().__init__()
        self.layer = layer
        self.embedding = nn.Linear(embedding, channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.layer(x)
        return F.silu(h + self.embedding(embedding).unflatten(1, (-1,) + (1,) * (h.ndim - 2)))


class ConvDense(nn.Module):
    """Two convolutions that halve the size, two dense layers around a bottleneck, and two convolutions back.

    All that the result knows of x has to pass the bottleneck, which is small: use parameterization=x0, since noise
    does not fit through it.

    Shapes: x (B, inputs * channels, *size), c_noise (B,), cond None or labels (B,) int64 in [-1, num_classes), -1 for
    none; result (B, outputs * channels, *size).

    Args:
        channels: channels of the data.
        size: spatial size, (L,) or (H, W), each a multiple of 4.
        width: channels at half the size; there are twice as many at a quarter of it.
        bottleneck: width of the dense layers.
        bounded: end with tanh, so that the result lies in [-1, 1]; for parameterization=x0.
        embedding: width of what is made of the noise level and the label.
        num_classes: labels to condition on; 0 for none.
        encoding: makes what encodes the noise level, of a width.
        inputs: tensors of the shape of the data that x holds, side by side in channels; 2 with self-conditioning.
        outputs: tensors of the shape of the data that the result holds; 2 where the variance is learned.

    Raises:
        ValueError: where `size` has more than two axes or cannot be divided by 4.
    """

    def __init__(
        self,
        channels: PositiveInt,
        size: Sequence[PositiveInt],
        width: PositiveInt = 32,
        bottleneck: PositiveInt = 512,
        bounded: bool = False,
        embedding: PositiveInt = 128,
        num_classes: NonNegativeInt = 0,
        encoding: Callable[[int], nn.Module] = SinusoidalEmbedding,
        inputs: PositiveInt = 1,
        outputs: PositiveInt = 1,
    ):
        super().__init__()
        check_size("ConvDense", size, 4, "halves the size twice", "net=mlp")
        self.num_classes, self.bounded = num_classes, bounded
        conv, quarter = CONV[len(size)], [s // 4 for s in size]
        self.conditioning = Conditioning(embedding, num_classes, encoding)

        def stage(layer: nn.Module, channels: int) -> Stage:
            return Stage(layer, channels, embedding)

        def upsampled(c_in: int, c_out: int) -> nn.Module:
            return nn.Sequential(nn.Upsample(scale_factor=2), conv(c_in, c_out, 3, padding=1))

        flat = 2 * width * prod(quarter)
        self.stages = nn.ModuleList(
            [
                stage(conv(inputs * channels, width, 3, stride=2, padding=1), width),
                stage(conv(width, 2 * width, 3, stride=2, padding=1), 2 * width),
                stage(nn.Sequential(nn.Flatten(), nn.Linear(flat, bottleneck)), bottleneck),
                stage(nn.Sequential(nn.Linear(bottleneck, flat), nn.Unflatten(1, (2 * width, *quarter))), 2 * width),
                stage(upsampled(2 * width, width), width),
            ]
        )
        self.head = upsampled(width, outputs * channels)
        zero_init(self.head)

    def forward(
        self,
        x: Float[Tensor, "batch in_channels *size"],
        c_noise: Float[Tensor, " batch"],
        cond: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch out_channels *size"]:
        embedding = F.silu(self.conditioning(c_noise, cond))
        for stage in self.stages:
            x = stage(x, embedding)
        x = self.head(x)
        return x.tanh() if self.bounded else x

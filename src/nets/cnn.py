"""A plain convolutional network at full resolution, for signals and images."""

from collections.abc import Callable, Sequence
from math import gcd
from typing import Annotated

from annotated_types import MinLen
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from src.nets.encodings import SinusoidalEmbedding
from src.nets.layers import CONV, Conditioning, Patches, ResBlock, check_size, zero_init
from src.utils.ranges import NonNegativeInt, PositiveInt, Probability


class CNN(nn.Module):
    """Residual convolutions that all see the data at one resolution, and with growing dilations the whole of it.

    A block reaches twice its dilation to each side, so that all of them reach 2 * patch * (sum of dilations) samples.

    Shapes: x (B, inputs * channels, *size), c_noise (B,), cond None or labels (B,) int64 in [-1, num_classes), -1 for
    none; result (B, outputs * channels, *size).

    Args:
        channels: channels of the data.
        size: spatial size, (L,) or (H, W).
        width: channels of the layers.
        depth: number of residual blocks.
        dilations: of the blocks in turn.
        patch: side of the patches folded into channels.
        groups: groups of each group normalisation.
        dropout: dropout in the residual blocks.
        embedding: width of what is made of the noise level and the label.
        num_classes: labels to condition on; 0 for none.
        encoding: makes what encodes the noise level, of a width.
        inputs: tensors of the shape of the data that x holds, side by side in channels; 2 with self-conditioning.
        outputs: tensors of the shape of the data that the result holds; 2 where the variance is learned.

    Raises:
        ValueError: where `size` has more than two axes or cannot be divided by the patch.

    Source: Kong et al. 2021, arXiv:2009.09761, section 4 (dilations in turn); Yu, Koltun 2016, arXiv:1511.07122.
    """

    def __init__(
        self,
        channels: PositiveInt,
        size: Sequence[PositiveInt],
        width: PositiveInt = 64,
        depth: PositiveInt = 8,
        dilations: Annotated[Sequence[PositiveInt], MinLen(1)] = (1, 2, 4, 8),
        patch: PositiveInt = 1,
        groups: PositiveInt = 8,
        dropout: Probability = 0.0,
        embedding: PositiveInt = 128,
        num_classes: NonNegativeInt = 0,
        encoding: Callable[[int], nn.Module] = SinusoidalEmbedding,
        inputs: PositiveInt = 1,
        outputs: PositiveInt = 1,
    ):
        super().__init__()
        check_size("a CNN", size, patch, f"folds patches of {patch}", "another net.patch")
        self.num_classes = num_classes
        dims = len(size)
        self.patches = Patches(patch)
        self.conditioning = Conditioning(embedding, num_classes, encoding)
        self.stem = CONV[dims](inputs * channels * patch**dims, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            ResBlock(dims, width, width, embedding, groups, dropout, dilations[i % len(dilations)])
            for i in range(depth)
        )
        self.norm = nn.GroupNorm(gcd(groups, width), width)
        self.head = zero_init(CONV[dims](width, outputs * channels * patch**dims, 3, padding=1))

    def forward(
        self,
        x: Float[Tensor, "batch in_channels *size"],
        c_noise: Float[Tensor, " batch"],
        cond: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch out_channels *size"]:
        embedding = F.silu(self.conditioning(c_noise, cond))
        x = self.stem(self.patches.fold(x))
        for block in self.blocks:
            x = block(x, embedding)
        return self.patches.unfold(self.head(F.silu(self.norm(x))))

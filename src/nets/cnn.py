"""A plain convolutional network at full resolution, for signals, images and volumes."""

from collections.abc import Sequence
from math import gcd
from typing import Annotated, Unpack

from annotated_types import MinLen
from torch import Tensor, nn
from torch.nn import functional as F

from src.nets.base import Net, NetOptions
from src.nets.layers import CONV, Patches, ResBlock, check_spatial_size, zero_init
from src.utils.ranges import PositiveInt, Probability


class CNN(Net):
    """Residual blocks at one resolution, whose dilated convolutions grow to see the whole input.

    A block reaches 2 * dilation positions to each side, so that the network reaches 2 * patch_size * (sum of the
    dilations) samples.

    Args:
        channels, size: see `Net`; one to three spatial axes.
        width: channels of the blocks.
        depth: number of residual blocks.
        dilations: dilation of each block, repeated in turn.
        patch_size: side of the patches moved to channels.
        num_groups: groups of each group normalization.
        dropout: dropout probability in the residual blocks.
        embed_dim, **options: see `Net`.

    Raises:
        ValueError: if `size` has more than three axes or is not divisible by `patch_size`.

    Source: Kong et al. 2021, arXiv:2009.09761, section 4 (cycles of dilations); Yu, Koltun 2016, arXiv:1511.07122.
    """

    def __init__(
        self,
        channels: PositiveInt,
        size: Sequence[PositiveInt],
        width: PositiveInt = 64,
        depth: PositiveInt = 8,
        dilations: Annotated[Sequence[PositiveInt], MinLen(1)] = (1, 2, 4, 8),
        patch_size: PositiveInt = 1,
        num_groups: PositiveInt = 8,
        dropout: Probability = 0.0,
        embed_dim: PositiveInt = 128,
        **options: Unpack[NetOptions],
    ):
        check_spatial_size(size, patch_size, f"a CNN with net.patch_size={patch_size}", "another net.patch_size")
        super().__init__(channels, size, embed_dim, **options)
        dims = len(size)
        self.patches = Patches(patch_size)
        self.stem = CONV[dims](self.in_channels * patch_size**dims, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            ResBlock(dims, width, width, embed_dim, num_groups, dropout, dilations[i % len(dilations)])
            for i in range(depth)
        )
        self.norm = nn.GroupNorm(gcd(num_groups, width), width)
        self.head = zero_init(CONV[dims](width, self.out_channels * patch_size**dims, 3, padding=1))

    def body(self, x: Tensor, embedding: Tensor) -> Tensor:
        x = self.stem(self.patches.patchify(x))
        for block in self.blocks:
            x = self.run_block(block, x, embedding)
        return self.patches.unpatchify(self.head(F.silu(self.norm(x))))

"""A network for samples of any shape: a U-Net whose levels follow from the size, or dense layers for points."""

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor
from torch.nn import functional as F

from src.nets.base import Net, NetOptions
from src.nets.mlp import MLP
from src.nets.unet import UNet
from src.utils.ranges import PositiveInt, Probability

COARSEST = {1: 32, 2: 8, 3: 4}  # length of a side at the last level, by the number of axes
MAX_LEVELS = 4


class PaddedUNet(UNet):
    """A U-Net for a size that its levels cannot halve: the ends are repeated up to one that they can.

    Args:
        channels, size: see `Net`.
        padded: the size of its levels.
        options: those of `UNet`.
    """

    def __init__(self, channels: int, size: Sequence[int], padded: Sequence[int], **options):  # type: ignore[no-untyped-def]
        super().__init__(channels, padded, **options)
        self.size, self.padded = tuple(size), tuple(padded)

    def body(self, x: Tensor, embedding: Tensor, *more: Tensor) -> Tensor:
        sides = [side for n, m in zip(reversed(self.size), reversed(self.padded), strict=True) for side in (0, m - n)]
        x = super().body(F.pad(x, sides, "replicate"), embedding, *more)
        for axis, n in enumerate(self.size, 2):
            x = x.narrow(axis, 0, n)
        return x


def auto_net(
    channels: PositiveInt,
    size: Sequence[PositiveInt],
    width: PositiveInt | None = None,
    dropout: Probability = 0.0,
    **options: Unpack[NetOptions],
) -> Net:
    """Make dense layers for points, and for all else a U-Net.

    The U-Net folds patches of 2 where a side has at least 16 elements, and halves the size until the longest side has
    about 32 elements for signals, 8 for images and fields, and 4 for volumes. A size that cannot be halved as often is
    padded within.

    Args:
        channels, size: see `Net`.
        width: channels of the first level of the U-Net, by default 48, or width of the dense layers, by default 256.
        dropout: dropout probability in the blocks.
        **options: see `Net`.
    """
    if not size:
        return MLP(channels, size, width or 256, dropout=dropout, **options)
    patch_size = 2 if min(size) >= 16 else 1
    levels = 1
    while (
        levels < MAX_LEVELS
        and max(size) > patch_size * 2 ** (levels - 1) * COARSEST[len(size)]
        and min(size) >= patch_size * 2**levels
    ):
        levels += 1
    factor = patch_size * 2 ** (levels - 1)
    return PaddedUNet(
        channels, size, [-(-n // factor) * factor for n in size], width=width or 48,
        channel_mults=[1, *[2] * (levels - 1)], patch_size=patch_size, dropout=dropout, **options,
    )  # fmt: skip

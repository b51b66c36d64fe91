"""The U-Net of diffusion models, for signals, images and volumes."""

from collections.abc import Sequence
from math import gcd
from typing import Annotated, Literal, Unpack

import torch
from annotated_types import MinLen
from torch import Tensor, nn
from torch.nn import functional as F

from src.nets.base import Net, NetOptions
from src.nets.layers import CONV, Attention, CrossAttention, Patches, ResBlock, check_spatial_size, zero_init
from src.utils.ranges import NonNegativeInt, PositiveInt, Probability


class ResAttnBlock(nn.Module):
    """A residual block, optionally followed by self-attention, and by attention to the tokens of a condition."""

    def __init__(self, block: ResBlock, attention: Attention | None, cross_attention: CrossAttention | None):
        super().__init__()
        self.block = block
        self.attention = attention if attention is not None else nn.Identity()
        self.cross_attention = cross_attention

    def forward(self, x: Tensor, embedding: Tensor, *context: Tensor) -> Tensor:
        x = self.attention(self.block(x, embedding))
        return x if self.cross_attention is None else self.cross_attention(x, *context)


class UNet(Net):
    """Residual U-Net with skip connections, optional self-attention, and optional patches.

    Args:
        channels, size: see `Net`; one to three spatial axes.
        width: channels of the first level; level i has `width * channel_mults[i]`.
        channel_mults: one multiple for each level; the size is halved between levels.
        num_blocks: residual blocks of each level (one more on the way up).
        attention_levels: levels (0 is the first) with self-attention after each block.
        middle_attention: self-attention between the two middle blocks.
        cross_attention_levels: levels with attention to the tokens of a condition, such as a text, after each block; it
            is also between the two middle blocks. Default: the last. Without tokens there is none.
        skip_mode: `concat` concatenates a skip connection to the features on the way up; `add` adds it, divided by
            sqrt(2), where both have the same number of channels, which makes the blocks narrower and faster.
        patch_size: side of the patches moved to channels before the first level.
        num_heads: attention heads.
        num_groups: groups of each group normalization.
        dropout: dropout probability in the residual blocks.
        embed_dim: see `Net`. Default: `4 * width`.
        **options: see `Net`.

    Raises:
        ValueError: if `size` is not divisible by `patch_size` and by 2 between all levels.

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B; Dhariwal, Nichol 2021, arXiv:2105.05233; added skips: Song
    et al. 2021, arXiv:2011.13456, appendix H.
    """

    cross_attention = True

    def __init__(
        self,
        channels: PositiveInt,
        size: Sequence[PositiveInt],
        width: PositiveInt = 64,
        channel_mults: Annotated[Sequence[PositiveInt], MinLen(1)] = (1, 2),
        num_blocks: PositiveInt = 1,
        attention_levels: Sequence[NonNegativeInt] = (),
        middle_attention: bool = True,
        cross_attention_levels: Sequence[NonNegativeInt] | None = None,
        skip_mode: Literal["concat", "add"] = "concat",
        patch_size: PositiveInt = 1,
        num_heads: PositiveInt = 4,
        num_groups: PositiveInt = 8,
        dropout: Probability = 0.0,
        embed_dim: PositiveInt | None = None,
        **options: Unpack[NetOptions],
    ):
        dims, levels = len(size), len(channel_mults)
        embed_dim = 4 * width if embed_dim is None else embed_dim
        check_spatial_size(
            size, patch_size * 2 ** (levels - 1), f"a U-Net with net.patch_size={patch_size} and {levels} levels",
            "fewer net.channel_mults, another net.patch_size",
        )  # fmt: skip
        super().__init__(channels, size, embed_dim, **options)
        self.skip_mode = skip_mode
        conv = CONV[dims]
        cross_attention_levels = [levels - 1] if cross_attention_levels is None else cross_attention_levels

        def block(c_in: int, c_out: int, attend: bool, cross: bool) -> ResAttnBlock:
            groups, cross = gcd(num_groups, c_out), cross and self.token_width > 0
            return ResAttnBlock(
                ResBlock(dims, c_in, c_out, embed_dim, num_groups, dropout),
                Attention(c_out, num_heads, groups) if attend else None,
                CrossAttention(c_out, self.token_width, num_heads, groups) if cross else None,
            )

        widths = [width * m for m in channel_mults]
        self.patches = Patches(patch_size)
        self.stem = conv(self.in_channels * patch_size**dims, width, 3, padding=1)

        skips, c = [width], width
        self.down = nn.ModuleList()
        for i, w in enumerate(widths):
            for _ in range(num_blocks):
                self.down.append(block(c, w, i in attention_levels, i in cross_attention_levels))
                skips.append(c := w)
            if i < levels - 1:
                self.down.append(conv(c, c, 3, stride=2, padding=1))
                skips.append(c)

        self.middle = nn.ModuleList([block(c, c, middle_attention, True), block(c, c, False, False)])

        self.up = nn.ModuleList()
        for i, w in reversed(list(enumerate(widths))):
            for _ in range(num_blocks + 1):
                skip = skips.pop()
                c_in = c if skip_mode == "add" and c == skip else c + skip
                self.up.append(block(c_in, w, i in attention_levels, i in cross_attention_levels))
                c = w
            if i > 0:
                # Fewer channels before the size is doubled: there this costs a quarter.
                self.up.append(nn.Sequential(conv(c, widths[i - 1], 1), nn.Upsample(scale_factor=2)))
                c = widths[i - 1]

        self.norm = nn.GroupNorm(gcd(num_groups, c), c)
        self.head = zero_init(conv(c, self.out_channels * patch_size**dims, 3, padding=1))

    def body(self, x: Tensor, embedding: Tensor, *context: Tensor) -> Tensor:
        x = self.stem(self.patches.patchify(x))
        skips = [x]
        for layer in self.down:
            x = self.run_block(layer, x, embedding, *context) if isinstance(layer, ResAttnBlock) else layer(x)
            skips.append(x)
        for layer in self.middle:
            x = self.run_block(layer, x, embedding, *context)
        for layer in self.up:
            if isinstance(layer, ResAttnBlock):
                x = self.run_block(self.up_block, layer, x, skips.pop(), embedding, *context)
            else:
                x = layer(x)
        return self.patches.unpatchify(self.head(F.silu(self.norm(x))))

    def up_block(self, block: nn.Module, x: Tensor, skip: Tensor, *given: Tensor) -> Tensor:
        """A block on the way up; the joined features are part of it, so that checkpointing does not store them."""
        return block(self.merge_skip(x, skip), *given)

    def merge_skip(self, x: Tensor, skip: Tensor) -> Tensor:
        """Features on the way up joined with a skip connection: their scaled sum, or concatenated channels."""
        return (x + skip) * 0.5**0.5 if self.skip_mode == "add" and x.shape == skip.shape else torch.cat([x, skip], 1)

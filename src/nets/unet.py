"""The U-Net of diffusion models, for signals and images."""

from collections.abc import Callable, Sequence
from math import gcd
from typing import Annotated

import torch
from annotated_types import MinLen
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from src.nets.encodings import SinusoidalEmbedding
from src.nets.layers import CONV, Attention, Conditioning, Patches, ResBlock, check_size, zero_init
from src.utils.ranges import NonNegativeInt, PositiveInt, Probability


class Level(nn.Module):
    """One residual block, with attention after it where asked."""

    def __init__(self, block: ResBlock, attention: Attention | None):
        super().__init__()
        self.block = block
        self.attention = attention if attention is not None else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attention(self.block(x, embedding))


class UNet(nn.Module):
    """Residual U-Net with skip connections, attention where asked, and patches folded into channels on request.

    Shapes: x (B, inputs * channels, *size), c_noise (B,), cond None or labels (B,) int64 in [-1, num_classes), -1 for
    none; result (B, outputs * channels, *size).

    Args:
        channels: channels of the data.
        size: spatial size, (L,) or (H, W).
        width: channels of the first level; level i has `width * mults[i]`.
        mults: one factor a level; the size is halved between levels.
        blocks: residual blocks a level (one more on the way up).
        attention: levels (0 is the first) with self-attention after each block.
        middle_attention: self-attention between the two middle blocks.
        patch: side of the patches folded into channels before the first level.
        heads: attention heads.
        groups: groups of each group normalisation.
        dropout: dropout in the residual blocks.
        num_classes: labels to condition on; 0 for none.
        embedding: channels of the embedding of noise level and label, in multiples of `width`.
        encoding: makes what encodes the noise level, of a width.
        inputs: tensors of the shape of the data that x holds, side by side in channels; 2 with self-conditioning.
        outputs: tensors of the shape of the data that the result holds; 2 where the variance is learned.
        add_skips: add a skip connection to what comes up, over sqrt(2), where both have as many channels; otherwise it
            is put beside it, and the first convolution of the block that follows is as much wider.

    Raises:
        ValueError: where `size` cannot be divided by the patch and halved as often as the levels ask.

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B; Dhariwal, Nichol 2021, arXiv:2105.05233; added skips: Song
    et al. 2021, arXiv:2011.13456, appendix H.
    """

    def __init__(
        self,
        channels: PositiveInt,
        size: Sequence[PositiveInt],
        width: PositiveInt = 64,
        mults: Annotated[Sequence[PositiveInt], MinLen(1)] = (1, 2),
        blocks: PositiveInt = 1,
        attention: Sequence[NonNegativeInt] = (),
        middle_attention: bool = True,
        patch: PositiveInt = 1,
        heads: PositiveInt = 4,
        groups: PositiveInt = 8,
        dropout: Probability = 0.0,
        num_classes: NonNegativeInt = 0,
        embedding: PositiveInt = 4,
        encoding: Callable[[int], nn.Module] = SinusoidalEmbedding,
        inputs: PositiveInt = 1,
        outputs: PositiveInt = 1,
        add_skips: bool = False,
    ):
        super().__init__()
        dims, depth, embedded = len(size), len(mults), embedding * width
        check_size(
            "a U-Net", size, patch * 2 ** (depth - 1),
            f"with patch={patch} and {depth} levels halves the size {depth - 1} times",
            "fewer net.mults, another net.patch",
        )  # fmt: skip
        self.num_classes, self.add_skips = num_classes, add_skips
        conv = CONV[dims]

        def level(c_in: int, c_out: int, attend: bool) -> Level:
            block = ResBlock(dims, c_in, c_out, embedded, groups, dropout)
            return Level(block, Attention(c_out, heads, gcd(groups, c_out)) if attend else None)

        widths = [width * m for m in mults]
        self.patches = Patches(patch)
        self.conditioning = Conditioning(embedded, num_classes, encoding)
        self.stem = conv(inputs * channels * patch**dims, width, 3, padding=1)

        skips, c = [width], width
        self.down = nn.ModuleList()
        for i, w in enumerate(widths):
            for _ in range(blocks):
                self.down.append(level(c, w, i in attention))
                skips.append(c := w)
            if i < depth - 1:
                self.down.append(conv(c, c, 3, stride=2, padding=1))
                skips.append(c)

        self.middle = nn.ModuleList([level(c, c, middle_attention), level(c, c, False)])

        self.up = nn.ModuleList()
        for i, w in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                skip = skips.pop()
                self.up.append(level(c if add_skips and c == skip else c + skip, w, i in attention))
                c = w
            if i > 0:
                # Fewer channels before the size is doubled: there this costs a quarter.
                self.up.append(nn.Sequential(conv(c, widths[i - 1], 1), nn.Upsample(scale_factor=2)))
                c = widths[i - 1]

        self.norm = nn.GroupNorm(gcd(groups, c), c)
        self.head = zero_init(conv(c, outputs * channels * patch**dims, 3, padding=1))

    def forward(
        self,
        x: Float[Tensor, "batch in_channels *size"],
        c_noise: Float[Tensor, " batch"],
        cond: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch out_channels *size"]:
        embedding = F.silu(self.conditioning(c_noise, cond))
        x = self.stem(self.patches.fold(x))
        skips = [x]
        for layer in self.down:
            x = layer(x, embedding) if isinstance(layer, Level) else layer(x)
            skips.append(x)
        for layer in self.middle:
            x = layer(x, embedding)
        for layer in self.up:
            x = layer(self.join(x, skips.pop()), embedding) if isinstance(layer, Level) else layer(x)
        return self.patches.unfold(self.head(F.silu(self.norm(x))))

    def join(self, x: Tensor, skip: Tensor) -> Tensor:
        """What comes up and a skip connection, added or side by side."""
        return (x + skip) * 0.5**0.5 if self.add_skips and x.shape == skip.shape else torch.cat([x, skip], 1)

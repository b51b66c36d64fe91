"""The diffusion transformer, for signals, images and volumes."""

from collections.abc import Sequence
from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from src.nets.base import Net, NetOptions
from src.nets.layers import LayerNorm, Patches, TokenAttention, attend, check_heads, check_spatial_size, zero_init
from src.nets.time_embeddings import SinusoidalEmbedding
from src.utils.ranges import PositiveFloat, PositiveInt, Probability


class AdaLN(nn.Module):
    """Adaptive layer normalization: scale and shift are linear in the embedding, and start at 1 and 0.

    Shapes: h (B, N, width), embedding (B, embed_dim); result (B, N, width).
    """

    def __init__(self, width: int, embed_dim: int):
        super().__init__()
        self.norm = LayerNorm(width, elementwise_affine=False)
        self.modulation = zero_init(nn.Linear(embed_dim, 2 * width))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, None].chunk(2, -1)
        return torch.addcmul(shift, self.norm(h), 1 + scale)


class DiTBlock(nn.Module):
    """Self-attention and a two-layer MLP, each after an `AdaLN` and gated by the embedding.

    The gates start at zero (adaLN-Zero), so that the block starts as the identity. With the tokens of a condition,
    attention to them stands between the two.

    Shapes: h (B, N, width), embedding (B, embed_dim), tokens (B, M, token_width), mask (B, M); result (B, N, width).
    """

    def __init__(
        self, width: int, embed_dim: int, num_heads: int, mlp_ratio: float, dropout: float, token_width: int = 0
    ):
        super().__init__()
        self.num_heads = num_heads
        hidden = int(mlp_ratio * width)
        self.gates = zero_init(nn.Linear(embed_dim, 2 * width))
        self.norm_1 = AdaLN(width, embed_dim)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_2 = AdaLN(width, embed_dim)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU("tanh"), nn.Dropout(dropout), nn.Linear(hidden, width)
        )
        self.cross_attention = TokenAttention(width, token_width, num_heads) if token_width else None
        self.cross_norm = LayerNorm(width) if token_width else None

    def forward(self, h: Tensor, embedding: Tensor, *context: Tensor) -> Tensor:
        gate_1, gate_2 = self.gates(embedding)[:, None].chunk(2, -1)
        h = h + gate_1 * self.out(attend(self.qkv(self.norm_1(h, embedding)), self.num_heads))
        if self.cross_attention is not None and self.cross_norm is not None:
            h = h + self.cross_attention(self.cross_norm(h), *context)
        return h + gate_2 * self.mlp(self.norm_2(h, embedding))


class DiT(Net):
    """A transformer on patches, whose norms the embedding of noise level and condition scales, shifts and gates.

    Args:
        channels, size: see `Net`; one to three spatial axes.
        width: channels of a token, a multiple of num_heads, even, and at least two for each axis.
        depth: number of blocks.
        num_heads: attention heads.
        patch_size: side of the patches, one token each.
        mlp_ratio: hidden width of each block's MLP, relative to `width`.
        dropout: dropout probability in the MLPs.
        embed_dim: see `Net`. Default: `width`.
        **options: see `Net`.

    Raises:
        ValueError: if `size` has more than three axes or is not divisible by `patch_size`, or `width` by `num_heads`.

    Source: Peebles, Xie 2023, arXiv:2212.09748, section 3.2 (adaLN-Zero); tokens: Chen et al. 2023, arXiv:2310.00426,
    section 2.3.
    """

    positions: Tensor
    cross_attention = True

    def __init__(
        self,
        channels: PositiveInt,
        size: Sequence[PositiveInt],
        width: PositiveInt = 128,
        depth: PositiveInt = 4,
        num_heads: PositiveInt = 4,
        patch_size: PositiveInt = 4,
        mlp_ratio: PositiveFloat = 4.0,
        dropout: Probability = 0.0,
        embed_dim: PositiveInt | None = None,
        **options: Unpack[NetOptions],
    ):
        check_spatial_size(size, patch_size, f"a DiT with net.patch_size={patch_size}", "another net.patch_size")
        check_heads(width, num_heads)
        positions = sin_cos([s // patch_size for s in size], width)
        embed_dim = width if embed_dim is None else embed_dim
        super().__init__(channels, size, embed_dim, **options)
        dims = len(size)
        self.patches = Patches(patch_size)
        self.stem = nn.Linear(self.in_channels * patch_size**dims, width)
        self.register_buffer("positions", positions, persistent=False)
        self.blocks = nn.ModuleList(
            DiTBlock(width, embed_dim, num_heads, mlp_ratio, dropout, self.token_width) for _ in range(depth)
        )
        self.norm = AdaLN(width, embed_dim)
        self.head = zero_init(nn.Linear(width, self.out_channels * patch_size**dims))

    def body(self, x: Tensor, embedding: Tensor, *context: Tensor) -> Tensor:
        patches = self.patches.patchify(x)
        h = self.stem(patches.flatten(2).transpose(1, 2)) + self.positions
        for block in self.blocks:
            h = self.run_block(block, h, embedding, *context)
        result = self.head(self.norm(h, embedding)).transpose(1, 2)
        return self.patches.unpatchify(result.unflatten(2, patches.shape[2:]))


def sin_cos(size: Sequence[int], width: int) -> Float[Tensor, "positions width"]:
    """Positional encoding of a grid: cosines and sines of the index along each axis, concatenated.

    The axes share the channels equally; what is left over goes to the first ones.
    """
    pairs, count = width // 2, len(size)
    if width % 2 or pairs < count:
        raise ValueError(f"net.width must be even and >= {2 * count} for {count}-dimensional data, got {width}")
    axes = torch.meshgrid(*(torch.arange(float(n)) for n in size), indexing="ij")
    widths = [2 * (pairs // count + (i < pairs % count)) for i in range(count)]
    return torch.cat([SinusoidalEmbedding(w)(axis.flatten()) for w, axis in zip(widths, axes, strict=True)], 1)

"""Encoders of texts, which `condition=text` makes: UTF-8 bytes to an embedding and to the tokens of cross-attention."""

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F

from src.diffusion.conditions.encoders import Encoded, Encoder
from src.nets.layers import check_heads, mix
from src.nets.time_embeddings import SinusoidalEmbedding
from src.utils.ranges import PositiveInt

BEGIN = 256  # the token before the bytes


class ByteEncoder(Encoder):
    """A small transformer on the bytes of a text, trained along with the network.

    A token of its own stands before the bytes. It sums the text up in the embedding, and is the whole of an empty text,
    which is the null condition.

    Shapes: text (B, N) int64, UTF-8 bytes padded with -1; tokens (B, N + 1, width). Padding changes nothing.

    Args:
        text_length: N.
        embed_dim: dimension of the embedding.
        width: channels of a token, a multiple of num_heads.
        depth: number of blocks.
        num_heads: attention heads.

    Source: Vaswani et al. 2017, arXiv:1706.03762; norms first: Xiong et al. 2020, arXiv:2002.04745; bytes: Xue et al.
    2022, arXiv:2105.13626.
    """

    positions: Tensor

    def __init__(
        self,
        text_length: PositiveInt,
        embed_dim: PositiveInt,
        width: PositiveInt = 64,
        depth: PositiveInt = 2,
        num_heads: PositiveInt = 4,
    ):
        super().__init__()
        check_heads(width, num_heads)
        self.token_width = width
        self.bytes = nn.Embedding(BEGIN + 1, width)
        positions = SinusoidalEmbedding(width)(torch.arange(text_length + 1.0))
        self.register_buffer("positions", positions, persistent=False)
        self.blocks = nn.ModuleList(EncoderBlock(width, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.summary = nn.Linear(width, embed_dim)

    def forward(self, cond: Int[Tensor, "batch n"], x: Tensor) -> Encoded:
        ids = F.pad(cond, (1, 0), value=BEGIN)
        mask = ids >= 0
        h = self.bytes(ids.clamp(min=0)) + self.positions[: ids.shape[1]]
        for block in self.blocks:
            h = block(h, mask)
        h = self.norm(h)
        return Encoded(embedding=self.summary(h[:, 0]), tokens=h, mask=mask)


class EncoderBlock(nn.Module):
    """Self-attention and a two-layer MLP, each after a layer norm and with a residual connection.

    Shapes: h (B, N, width), mask (B, N); result (B, N, width).
    """

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm_1(h)).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        h = h + self.out(mix(q, k, v, mask))
        return h + self.mlp(self.norm_2(h))

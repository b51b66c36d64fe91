"""The diffusion transformer, for signals and images."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from src.nets.encodings import SinusoidalEmbedding
from src.nets.layers import Conditioning, Patches, attend, check_heads, check_size, zero_init
from src.utils.ranges import NonNegativeInt, PositiveFloat, PositiveInt, Probability


class AdaptiveNorm(nn.Module):
    """Layer normalisation, scaled and shifted by the embedding; starts as the normalisation alone.

    Shapes: h (B, N, D), embedding (B, E); result (B, N, D).
    """

    def __init__(self, width: int, embedding: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = zero_init(nn.Linear(embedding, 2 * width))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, None].chunk(2, -1)
        return torch.addcmul(shift, self.norm(h), 1 + scale)


class Block(nn.Module):
    """Self-attention and a pair of dense layers, each after an adaptive norm and gated by the embedding.

    The gates start closed (adaLN-zero), so that the block starts as nothing.

    Shapes: h (B, N, D), embedding (B, D); result (B, N, D).
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, dropout: float):
        super().__init__()
        self.heads = heads
        hidden = int(mlp_ratio * width)
        self.gates = zero_init(nn.Linear(width, 2 * width))
        self.norm_1 = AdaptiveNorm(width, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_2 = AdaptiveNorm(width, width)
        self.dense = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU("tanh"), nn.Dropout(dropout), nn.Linear(hidden, width)
        )

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        gate_1, gate_2 = self.gates(embedding)[:, None].chunk(2, -1)
        h = h + gate_1 * self.out(attend(self.qkv(self.norm_1(h, embedding)), self.heads))
        return h + gate_2 * self.dense(self.norm_2(h, embedding))


class DiT(nn.Module):
    """A transformer on patches, whose norms the noise level and the label scale, shift and gate.

    Shapes: x (B, inputs * channels, *size), c_noise (B,), cond None or labels (B,) int64 in [-1, num_classes), -1 for
    none; result (B, outputs * channels, *size).

    Args:
        channels: channels of the data.
        size: spatial size, (L,) or (H, W).
        width: channels of a token, a multiple of the heads, and of 2 for signals and 4 for images.
        depth: number of blocks.
        heads: attention heads.
        patch: side of the patches that become tokens.
        mlp_ratio: width of the dense layers in each block, over that of a token.
        dropout: dropout in these.
        num_classes: labels to condition on; 0 for none.
        encoding: makes what encodes the noise level, of a width.
        inputs: tensors of the shape of the data that x holds, side by side in channels; 2 with self-conditioning.
        outputs: tensors of the shape of the data that the result holds; 2 where the variance is learned.

    Raises:
        ValueError: where `size` has more than two axes or cannot be divided by the patch, or the width by the heads.

    Source: Peebles, Xie 2023, arXiv:2212.09748, section 3.2 (adaLN-zero).
    """

    positions: Tensor

    def __init__(
        self,
        channels: PositiveInt,
        size: Sequence[PositiveInt],
        width: PositiveInt = 128,
        depth: PositiveInt = 4,
        heads: PositiveInt = 4,
        patch: PositiveInt = 4,
        mlp_ratio: PositiveFloat = 4.0,
        dropout: Probability = 0.0,
        num_classes: NonNegativeInt = 0,
        encoding: Callable[[int], nn.Module] = SinusoidalEmbedding,
        inputs: PositiveInt = 1,
        outputs: PositiveInt = 1,
    ):
        super().__init__()
        check_size("a DiT", size, patch, f"cuts patches of {patch}", "another net.patch")
        check_heads(width, heads)
        self.num_classes = num_classes
        dims = len(size)
        self.patches = Patches(patch)
        self.conditioning = Conditioning(width, num_classes, encoding)
        self.stem = nn.Linear(inputs * channels * patch**dims, width)
        self.register_buffer("positions", sin_cos([s // patch for s in size], width), persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, dropout) for _ in range(depth))
        self.norm = AdaptiveNorm(width, width)
        self.head = zero_init(nn.Linear(width, outputs * channels * patch**dims))

    def forward(
        self,
        x: Float[Tensor, "batch in_channels *size"],
        c_noise: Float[Tensor, " batch"],
        cond: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch out_channels *size"]:
        embedding = F.silu(self.conditioning(c_noise, cond))
        folded = self.patches.fold(x)
        h = self.stem(folded.flatten(2).transpose(1, 2)) + self.positions
        for block in self.blocks:
            h = block(h, embedding)
        result = self.head(self.norm(h, embedding)).transpose(1, 2)
        return self.patches.unfold(result.unflatten(2, folded.shape[2:]))


def sin_cos(size: Sequence[int], width: int) -> Float[Tensor, "positions width"]:
    """Every position of a grid, as cosines and sines of its index along each axis, side by side."""
    if width % (2 * len(size)):
        raise ValueError(f"net.width is a multiple of {2 * len(size)} for data of {len(size)} axes, not {width}")
    encode = SinusoidalEmbedding(width // len(size))
    axes = torch.meshgrid(*(torch.arange(float(n)) for n in size), indexing="ij")
    return torch.cat([encode(axis.flatten()) for axis in axes], 1)

"""The plain transformer on large patches that predicts the data."""

from collections.abc import Sequence
from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from src.nets.base import Net, NetOptions
from src.nets.layers import Patches, check_heads, check_spatial_size, mix, zero_init
from src.utils.ranges import NonNegativeInt, PositiveFloat, PositiveInt, Probability

BASE = 10_000.0  # of the wavelengths of the rotations


class SwiGLU(nn.Module):
    """A gated two-layer MLP: :math:`W_3 (silu(W_1 h) * W_2 h)`.

    Shapes: h (..., width); result the same.

    Source: Shazeer 2020, arXiv:2002.05202, eq. 6.
    """

    def __init__(self, width: int, hidden: int, dropout: float):
        super().__init__()
        self.gate_and_value = nn.Linear(width, 2 * hidden)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, width)

    def forward(self, h: Tensor) -> Tensor:
        gate, value = self.gate_and_value(h).chunk(2, -1)
        return self.out(self.dropout(F.silu(gate) * value))


class JiTBlock(nn.Module):
    """Self-attention with normalized queries and keys and rotary positions, and a `SwiGLU`.

    Each comes after an RMS normalization, is scaled, shifted and gated by the embedding, and starts as the identity.

    Shapes: h (B, N, width), embedding (B, embed_dim), rotation (2, N, width / num_heads / 2); result (B, N, width).
    """

    def __init__(self, width: int, embed_dim: int, num_heads: int, mlp_ratio: float, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.modulation = zero_init(nn.Linear(embed_dim, 6 * width))
        self.norm_1, self.norm_2 = (nn.RMSNorm(width, eps=1e-6, elementwise_affine=False) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width)
        self.q_scale, self.k_scale = (nn.Parameter(torch.ones(width // num_heads)) for _ in range(2))
        self.out = nn.Linear(width, width)
        # Two thirds of the hidden width, for as many parameters as an MLP without a gate.
        self.mlp = SwiGLU(width, max(1, int(mlp_ratio * width * 2 / 3)), dropout)

    def forward(self, h: Tensor, embedding: Tensor, rotation: Tensor) -> Tensor:
        scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = self.modulation(embedding)[:, None].chunk(6, -1)
        h = h + gate_1 * self.attention(torch.addcmul(shift_1, self.norm_1(h), 1 + scale_1), rotation)
        return h + gate_2 * self.mlp(torch.addcmul(shift_2, self.norm_2(h), 1 + scale_2))

    def attention(self, h: Tensor, rotation: Tensor) -> Tensor:
        q, k, v = self.qkv(h).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = (rotate_pairs(self.normalize(x, s), rotation) for x, s in ((q, self.q_scale), (k, self.k_scale)))
        return self.out(mix(q.to(v.dtype), k.to(v.dtype), v))

    def normalize(self, x: Tensor, scale: Tensor) -> Tensor:
        """The queries or keys of each head with a root mean square of 1, times a scale for each channel."""
        return F.rms_norm(x, x.shape[-1:], eps=1e-6) * scale


class JiT(Net):
    """A plain transformer on large patches, without convolutions; for `parameterization=x0`.

    Natural data lie near a low-dimensional manifold, and noise does not. A network that predicts the data needs only
    the width of the manifold, also for patches with more pixels than the tokens have channels, through which neither
    the noise nor v would pass. Noise level and condition are given to the blocks by their embedding, and as tokens in
    context.

    Args:
        channels, size: see `Net`; one to three spatial axes.
        width: channels of a token, a multiple of num_heads, with an even number for each head.
        depth: number of blocks.
        num_heads: attention heads.
        patch_size: side of the patches, one token each.
        bottleneck: channels of a linear bottleneck between patches and tokens; None for none.
        context_tokens: tokens that the embedding of noise level and condition adds to those of the patches.
        context_start: first block that has them.
        mlp_ratio: hidden width of each block's MLP, relative to `width`, of an MLP without a gate and as many
            parameters.
        dropout: dropout probability in the MLPs.
        embed_dim: see `Net`. Default: `width`.
        **options: see `Net`.

    Raises:
        ValueError: if `size` has more than three axes or is not divisible by `patch_size`, `width` is no even multiple
            of `num_heads`, or `context_start` is not below `depth`.

    Source: Li, He 2025, arXiv:2511.13720, section 4; RMS norm: Zhang, Sennrich 2019, arXiv:1910.07467; rotations: Su et
    al. 2021, arXiv:2104.09864; normalized queries and keys: Henry et al. 2020, arXiv:2010.04245.
    """

    rotation: Tensor

    def __init__(
        self,
        channels: PositiveInt,
        size: Sequence[PositiveInt],
        width: PositiveInt = 128,
        depth: PositiveInt = 4,
        num_heads: PositiveInt = 4,
        patch_size: PositiveInt = 4,
        bottleneck: PositiveInt | None = None,
        context_tokens: NonNegativeInt = 4,
        context_start: NonNegativeInt = 1,
        mlp_ratio: PositiveFloat = 4.0,
        dropout: Probability = 0.0,
        embed_dim: PositiveInt | None = None,
        **options: Unpack[NetOptions],
    ):
        check_spatial_size(size, patch_size, f"a JiT with net.patch_size={patch_size}", "another net.patch_size")
        check_heads(width, num_heads)
        if width // num_heads % 2:
            raise ValueError(f"net.width / net.num_heads must be even, got {width} / {num_heads}")
        if context_tokens and context_start >= depth:
            raise ValueError(
                f"net.context_start must be < net.depth, or net.context_tokens=0, got {context_start} and depth {depth}"
            )
        embed_dim = width if embed_dim is None else embed_dim
        super().__init__(channels, size, embed_dim, **options)
        pixels = patch_size ** len(size)
        self.patches, self.context_start = Patches(patch_size), context_start
        self.stem = nn.Linear(self.in_channels * pixels, width)
        if bottleneck is not None:
            narrow = nn.Linear(self.in_channels * pixels, bottleneck, bias=False)
            self.stem = nn.Sequential(narrow, nn.Linear(bottleneck, width))  # type: ignore[assignment]
        self.context = nn.Linear(embed_dim, width) if context_tokens else None
        self.context_places = nn.Parameter(0.02 * torch.randn(context_tokens, width)) if context_tokens else None
        angles = grid_angles([s // patch_size for s in size], width // num_heads)
        angles = torch.cat([angles.new_zeros(context_tokens, angles.shape[1]), angles])
        self.register_buffer("rotation", torch.stack([angles.cos(), angles.sin()]), persistent=False)
        self.blocks = nn.ModuleList(JiTBlock(width, embed_dim, num_heads, mlp_ratio, dropout) for _ in range(depth))
        self.norm = nn.RMSNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = zero_init(nn.Linear(embed_dim, 2 * width))
        self.head = zero_init(nn.Linear(width, self.out_channels * pixels))

    def body(self, x: Tensor, embedding: Tensor) -> Tensor:
        patches = self.patches.patchify(x)
        h = self.stem(patches.flatten(2).transpose(1, 2))
        count = h.shape[1]
        for i, block in enumerate(self.blocks):
            if i == self.context_start and self.context is not None and self.context_places is not None:
                h = torch.cat([self.context(embedding)[:, None] + self.context_places, h], 1)
            h = self.run_block(block, h, embedding, self.rotation[:, -h.shape[1] :])
        scale, shift = self.modulation(embedding)[:, None].chunk(2, -1)
        h = torch.addcmul(shift, self.norm(h[:, -count:]), 1 + scale)
        return self.patches.unpatchify(self.head(h).transpose(1, 2).unflatten(2, patches.shape[2:]))


def grid_angles(size: Sequence[int], width: int) -> Float[Tensor, "positions pairs"]:
    """The angles by which the pairs of channels of a head of this width are rotated, at each position of a grid.

    The axes share the pairs equally, with wavelengths from 2 pi to 2 pi times `BASE`; pairs that are left over are not
    rotated.
    """
    each = width // 2 // len(size)
    frequencies = BASE ** (-torch.arange(each) / max(1, each))
    axes = torch.meshgrid(*(torch.arange(float(n)) for n in size), indexing="ij")
    angles = torch.cat([axis.flatten()[:, None] * frequencies for axis in axes], 1)
    return F.pad(angles, (0, width // 2 - angles.shape[1]))


def rotate_pairs(x: Float[Tensor, "batch heads tokens width"], rotation: Tensor) -> Tensor:
    """Rotate pairs of channels by the angles whose cosines and sines are given, (2, tokens, width / 2)."""
    cos, sin = rotation
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)

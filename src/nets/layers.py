"""Layers shared by the networks, for one, two and three spatial axes."""

import math
from collections.abc import Sequence
from math import gcd

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

ALL_BACKENDS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


class Conv3d(nn.Conv3d):
    """A convolution of volumes, whose gradient is right on CPUs in bf16 too.

    Of a kernel of 3 on a padded depth of 2, torch 2.13 computes wrong gradients there, infinite ones among them. Such a
    depth is padded beforehand, which gives the same result.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] != 2 or isinstance(self.padding, str):
            return super().forward(x)
        depth, *others = self.padding
        x = F.pad(x, (0, 0, 0, 0, depth, depth))
        return F.conv3d(x, self.weight, self.bias, self.stride, (0, *others), self.dilation, self.groups)


CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: Conv3d}


def zero_init(layer: nn.Module) -> nn.Module:
    """Set all parameters of `layer` to zero, so that a residual branch starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class LayerNorm(nn.LayerNorm):
    """Layer normalization with the right gradient of its derivative in forward mode; that of torch 2.13 is wrong."""

    def forward(self, x: Tensor) -> Tensor:
        if forward_ad.unpack_dual(x).tangent is None:
            return super().forward(x)
        x = x - x.mean(-1, keepdim=True)
        x = x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return x if self.weight is None else torch.addcmul(self.bias, x, self.weight)


class FourierFeatures(nn.Module):
    r"""The input, and cosines and sines of random projections of it, from which dense layers learn sharp functions.

    .. math:: (x, \cos(W x), \sin(W x)), \quad W_{ij} \sim N(0, s^2)

    Shapes: x (B, in_features); result (B, in_features + 2 * num_frequencies).

    Args:
        in_features: elements of the input.
        num_frequencies: rows of W, which is not trained.
        scale: s, in radians per unit of the input; its inverse is the size of the details.

    Source: Tancik et al. 2020, arXiv:2006.10739, section 4.
    """

    projection: Tensor

    def __init__(self, in_features: int, num_frequencies: int, scale: float):
        super().__init__()
        self.out_features = in_features + 2 * num_frequencies
        self.register_buffer("projection", scale * torch.randn(in_features, num_frequencies))

    def forward(self, x: Float[Tensor, "batch in_features"]) -> Float[Tensor, "batch out_features"]:
        with torch.autocast(x.device.type, enabled=False):  # bf16 does not resolve angles
            angles = x @ self.projection.to(x.dtype)
        return torch.cat([x, angles.cos(), angles.sin()], dim=1)


class Patches(nn.Module):
    """Move patches of p samples along each axis to channels, and back.

    (B, C, L) <-> (B, C p, L/p), (B, C, H, W) <-> (B, C p^2, H/p, W/p), and (B, C, D, H, W) <-> (B, C p^3, D/p, H/p,
    W/p). Convolutions then work on fewer, wider positions, which costs far less for the same receptive field.
    """

    def __init__(self, patch_size: int):
        super().__init__()
        self.patch_size = patch_size

    def patchify(self, x: Tensor) -> Tensor:
        p = self.patch_size
        if p == 1:
            return x
        if x.ndim == 4:
            return F.pixel_unshuffle(x, p)
        axes = x.ndim - 2
        for axis in range(axes):  # (B, C, N_1, p, N_2, p, ...)
            x = x.unflatten(2 + 2 * axis, (-1, p))
        return x.permute(0, 1, *range(3, x.ndim, 2), *range(2, x.ndim, 2)).flatten(1, 1 + axes)

    def unpatchify(self, x: Tensor) -> Tensor:
        p = self.patch_size
        if p == 1:
            return x
        if x.ndim == 4:
            return F.pixel_shuffle(x, p)
        axes = x.ndim - 2
        x = x.unflatten(1, (-1, *[p] * axes))
        x = x.permute(0, 1, *(i for axis in range(2, 2 + axes) for i in (axis + axes, axis)))  # (B, C, N_1, p, ...)
        for axis in range(2, 2 + axes):
            x = x.flatten(axis, axis + 1)
        return x


class ResBlock(nn.Module):
    """Two normalized convolutions with a residual connection; the embedding scales and shifts the second norm.

    Shapes: x (B, c_in, *S), embedding (B, embed_dim); result (B, c_out, *S).

    Source: Dhariwal, Nichol 2021, arXiv:2105.05233, section 3 (adaptive group normalization).
    """

    def __init__(
        self, dims: int, c_in: int, c_out: int, embed_dim: int, num_groups: int, dropout: float, dilation: int = 1
    ):
        super().__init__()
        conv = CONV[dims]
        self.norm_1 = nn.GroupNorm(gcd(num_groups, c_in), c_in)
        self.conv_1 = conv(c_in, c_out, 3, padding=dilation, dilation=dilation)
        self.modulation = zero_init(nn.Linear(embed_dim, 2 * c_out))
        self.norm_2 = nn.GroupNorm(gcd(num_groups, c_out), c_out)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = zero_init(conv(c_out, c_out, 3, padding=dilation, dilation=dilation))
        self.skip = conv(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv_1(F.silu(self.norm_1(x)))
        scale, shift = self.modulation(embedding).unflatten(1, (2, -1) + (1,) * (x.ndim - 2)).unbind(1)
        h = torch.addcmul(shift, self.norm_2(h), 1 + scale)
        return self.skip(x) + self.conv_2(self.dropout(F.silu(h)))


class Attention(nn.Module):
    """Residual self-attention over all positions.

    Shapes: x (B, channels, *S); result the same.

    Source: Vaswani et al. 2017, arXiv:1706.03762; in a U-Net, Ho et al. 2020, arXiv:2006.11239, appendix B.
    """

    def __init__(self, channels: int, num_heads: int, num_groups: int):
        super().__init__()
        check_heads(channels, num_heads)
        self.num_heads = num_heads
        self.norm = nn.GroupNorm(num_groups, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Float[Tensor, "batch channels *size"]) -> Float[Tensor, "batch channels *size"]:
        batch, channels, *size = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        mixed = attend(self.qkv(tokens), self.num_heads)
        return x + self.out(mixed).transpose(1, 2).reshape(batch, channels, *size)


class TokenAttention(nn.Module):
    """Attention of a sequence to the tokens of a condition, to be added to the sequence; it starts as zero.

    Shapes: h (B, M, width); tokens (B, N, token_width); mask (B, N), True for the tokens that there are, at least one
    of each sample; result (B, M, width). The others weigh exactly nothing.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3; Rombach et al. 2022, arXiv:2112.10752, section 3.3.
    """

    def __init__(self, width: int, token_width: int, num_heads: int):
        super().__init__()
        check_heads(width, num_heads)
        self.num_heads = num_heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(token_width, 2 * width)
        self.out = zero_init(nn.Linear(width, width))

    def forward(self, h: Tensor, tokens: Tensor, mask: Tensor) -> Float[Tensor, "batch m width"]:
        q = self.q(h).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        k, v = self.kv(tokens).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(mix(q, k, v, mask))


class CrossAttention(nn.Module):
    """Residual attention of all positions to the tokens of a condition, as in `TokenAttention`.

    Shapes: x (B, channels, *S); tokens (B, N, token_width); mask (B, N); result as x.
    """

    def __init__(self, channels: int, token_width: int, num_heads: int, num_groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, channels)
        self.attention = TokenAttention(channels, token_width, num_heads)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Float[Tensor, "batch channels *size"]:
        found = self.attention(self.norm(x).flatten(2).transpose(1, 2), tokens, mask)
        return x + found.transpose(1, 2).reshape(x.shape)


def attend(qkv: Float[Tensor, "batch tokens three_channels"], num_heads: int) -> Float[Tensor, "batch tokens channels"]:
    """Multi-head attention of all tokens to all, from their concatenated queries, keys and values.

    Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1.
    """
    batch, tokens, _ = qkv.shape
    q, k, v = qkv.view(batch, tokens, 3, num_heads, -1).permute(2, 0, 3, 1, 4)
    return mix(q, k, v)


def mix(
    q: Float[Tensor, "batch heads queries width"],
    k: Float[Tensor, "batch heads keys width"],
    v: Float[Tensor, "batch heads keys width"],
    mask: Bool[Tensor, "batch keys"] | None = None,
) -> Float[Tensor, "batch queries channels"]:
    """The values that the queries find, of all heads; keys outside the mask weigh exactly nothing."""
    batch, _, queries, width = q.shape
    keys = None if mask is None else mask[:, None, None]
    # torch's fused kernel for the CPU is several times slower in its backward pass than plain matrix products.
    backends = [SDPBackend.MATH] if q.device.type == "cpu" else ALL_BACKENDS
    if forward_ad.unpack_dual(q).tangent is not None:  # of which torch's own, and its softmax, have no gradient
        scores = q @ k.transpose(2, 3) / math.sqrt(width)
        scores = scores if keys is None else scores.masked_fill(~keys, -torch.inf)
        shares = (scores - scores.detach().amax(-1, keepdim=True)).exp()
        mixed = shares / shares.sum(-1, keepdim=True) @ v
    else:
        with sdpa_kernel(backends):
            mixed = F.scaled_dot_product_attention(q, k, v, keys)
    return mixed.transpose(1, 2).reshape(batch, queries, -1)


def check_heads(channels: int, num_heads: int) -> None:
    """Refuse a number of attention heads that does not divide the channels."""
    if channels % num_heads:
        raise ValueError(f"net.num_heads must divide the {channels} channels of attention, got {num_heads}")


def check_spatial_size(size: Sequence[int], factor: int, net: str, fix: str) -> None:
    """Refuse data that does not have one to three axes, or whose sides are not multiples of `factor`.

    Args:
        size: spatial size of the data.
        factor: required divisor of each side.
        net: the network, with the settings that determine the factor.
        fix: the settings to change.
    """
    if len(size) not in CONV:
        raise ValueError(f"data.size must have one to three axes for {net}, got {list(size)}; use net=mlp")
    if any(s % factor for s in size):
        nearest = "x".join(str(max(1, round(s / factor)) * factor) for s in size)
        raise ValueError(
            f"data.size must be a multiple of {factor} for {net}, got {list(size)}; "
            f"use {fix}, or a size such as {nearest}"
        )

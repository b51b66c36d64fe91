"""Layers shared by the networks, in one and two spatial dimensions."""

from collections.abc import Callable, Sequence
from math import gcd

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from src.nets.encodings import SinusoidalEmbedding

ALL_BACKENDS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
CONV = {1: nn.Conv1d, 2: nn.Conv2d}


def zero_init(layer: nn.Module) -> nn.Module:
    """Set all parameters of `layer` to zero, so that a residual branch starts as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class FourierFeatures(nn.Module):
    r"""The input beside sines and cosines of random projections of it, with which dense layers learn sharp functions.

    .. math:: (x, \cos(W x), \sin(W x)), \quad W_{ij} \sim N(0, s^2)

    Args:
        inputs: D, elements of the input.
        number: n, rows of W, which is fixed.
        scale: s, in radians per unit of the input: its inverse is the size of the details.

    Shapes: x (B, D), result (B, D + 2 n).

    Source: Tancik et al. 2020, arXiv:2006.10739, section 4.
    """

    projection: Tensor

    def __init__(self, inputs: int, number: int, scale: float):
        super().__init__()
        self.outputs = inputs + 2 * number
        self.register_buffer("projection", scale * torch.randn(inputs, number))

    def forward(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        with torch.autocast(x.device.type, enabled=False):  # bf16 does not resolve angles
            angles = x @ self.projection.to(x.dtype)
        return torch.cat([x, angles.cos(), angles.sin()], dim=1)


class Conditioning(nn.Module):
    """Embed the noise level and, where there are classes, the label into one vector.

    Args:
        dim: width of the result.
        num_classes: number of labels; 0 makes an unconditional network.
        encoding: makes what encodes the noise level, of the width given to it.

    Shapes: c_noise (B,), label (B,) int64 in [-1, num_classes), -1 meaning "no label"; result (B, dim).
    """

    def __init__(self, dim: int, num_classes: int = 0, encoding: Callable[[int], nn.Module] = SinusoidalEmbedding):
        super().__init__()
        self.num_classes = num_classes
        self.noise = nn.Sequential(encoding(dim), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.label = nn.Embedding(num_classes + 1, dim) if num_classes else None

    def forward(
        self, c_noise: Float[Tensor, " batch"], label: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch dim"]:
        embedding = self.noise(c_noise)
        if self.label is None:
            if label is not None:
                raise ValueError("this network has no classes (net.num_classes=0), so it takes no labels")
            return embedding
        if label is None:
            label = torch.full(c_noise.shape, -1, device=c_noise.device)
        return embedding + self.label(label + 1)


class Patches(nn.Module):
    """Fold patches of p samples along every axis into channels, and back.

    (B, C, H, W) <-> (B, C p^2, H/p, W/p), and (B, C, L) <-> (B, C p, L/p). Convolutions then work on fewer, wider
    positions, which costs far less for the same receptive field.
    """

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def fold(self, x: Tensor) -> Tensor:
        p = self.size
        if p == 1:
            return x
        if x.ndim == 4:
            return F.pixel_unshuffle(x, p)
        batch, channels, length = x.shape
        return x.view(batch, channels, length // p, p).transpose(2, 3).reshape(batch, channels * p, length // p)

    def unfold(self, x: Tensor) -> Tensor:
        p = self.size
        if p == 1:
            return x
        if x.ndim == 4:
            return F.pixel_shuffle(x, p)
        batch, channels, length = x.shape
        return x.view(batch, channels // p, p, length).transpose(2, 3).reshape(batch, channels // p, length * p)


class ResBlock(nn.Module):
    """Two normalised convolutions around a skip connection; the embedding scales and shifts the second norm.

    Shapes: x (B, C_in, *S), embedding (B, D); result (B, C_out, *S).

    Source: Dhariwal, Nichol 2021, arXiv:2105.05233, section 3 (adaptive group normalisation).
    """

    def __init__(
        self, dims: int, c_in: int, c_out: int, embedding: int, groups: int, dropout: float, dilation: int = 1
    ):
        super().__init__()
        conv = CONV[dims]
        self.norm_1 = nn.GroupNorm(gcd(groups, c_in), c_in)
        self.conv_1 = conv(c_in, c_out, 3, padding=dilation, dilation=dilation)
        self.modulation = zero_init(nn.Linear(embedding, 2 * c_out))
        self.norm_2 = nn.GroupNorm(gcd(groups, c_out), c_out)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = zero_init(conv(c_out, c_out, 3, padding=dilation, dilation=dilation))
        self.skip = conv(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv_1(F.silu(self.norm_1(x)))
        scale, shift = self.modulation(embedding).unflatten(1, (2, -1) + (1,) * (x.ndim - 2)).unbind(1)
        h = torch.addcmul(shift, self.norm_2(h), 1 + scale)
        return self.skip(x) + self.conv_2(self.dropout(F.silu(h)))


class Attention(nn.Module):
    """Residual self-attention over all positions, with `heads` heads.

    Shapes: (B, C, *S) to the same.

    Source: Vaswani et al. 2017, arXiv:1706.03762; in a U-Net, Ho et al. 2020, arXiv:2006.11239, appendix B.
    """

    def __init__(self, channels: int, heads: int, groups: int):
        super().__init__()
        check_heads(channels, heads)
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Float[Tensor, "batch channels *size"]) -> Float[Tensor, "batch channels *size"]:
        batch, channels, *size = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        mixed = attend(self.qkv(tokens), self.heads)
        return x + self.out(mixed).transpose(1, 2).reshape(batch, channels, *size)


def attend(qkv: Float[Tensor, "batch tokens three_channels"], heads: int) -> Float[Tensor, "batch tokens channels"]:
    """Attention of all tokens to all, in each head, given their queries, keys and values side by side.

    Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1.
    """
    batch, tokens, _ = qkv.shape
    q, k, v = qkv.view(batch, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
    # torch's fused kernel for the CPU is several times slower in its backward pass than plain matrix products.
    backends = [SDPBackend.MATH] if qkv.device.type == "cpu" else ALL_BACKENDS
    with sdpa_kernel(backends):
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, -1)


def check_heads(channels: int, heads: int) -> None:
    """Refuse a number of heads that does not divide the channels."""
    if channels % heads:
        raise ValueError(f"{channels} channels cannot be split into net.heads={heads} heads")


def check_size(net: str, size: Sequence[int], factor: int, because: str, instead: str) -> None:
    """Refuse data of other than one or two axes, or with a side that is not a multiple of `factor`.

    Args:
        net: what the network is called.
        size: spatial size of the data.
        factor: what each side has to be a multiple of.
        because: what it is about the network that asks for that.
        instead: the settings to change.
    """
    if len(size) not in CONV:
        raise ValueError(f"{net} takes one or two spatial axes, but data.size is {list(size)}; use net=mlp")
    if any(s % factor for s in size):
        fitting = "x".join(str(max(1, round(s / factor)) * factor) for s in size)
        raise ValueError(
            f"{net} {because}, so each side must be a multiple of {factor}; data.size is {list(size)}. "
            f"Use {instead}, or a size such as {fitting}"
        )

"""Layers shared by the networks, in one and two spatial dimensions."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

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


class SinusoidalEmbedding(nn.Module):
    r"""Sines and cosines of a scalar at geometrically spaced frequencies.

    .. math:: (\cos(c\,\omega_i), \sin(c\,\omega_i)), \quad \omega_i = P^{-i / (d/2)}

    Args:
        dim: width d of the embedding, even.
        max_period: P, in the units of c. The default suits c_noise in [0, 1000].

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5; Ho et al. 2020, arXiv:2006.11239, appendix B.
    """

    frequencies: Tensor

    def __init__(self, dim: int, max_period: float = 10_000.0):
        super().__init__()
        if dim % 2:
            raise ValueError(f"the width of a sinusoidal embedding is even, not {dim}")
        frequencies = torch.exp(-math.log(max_period) * torch.arange(dim // 2) / (dim // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, c: Float[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
        # Angles reach 1000 rad, beyond what bf16 resolves, so they are taken in float32 whatever autocast says.
        angles = c.float()[:, None] * self.frequencies.float()
        return torch.cat([angles.cos(), angles.sin()], dim=1).to(self.frequencies.dtype)


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

    Shapes: c_noise (B,), label (B,) int64 in [-1, num_classes), -1 meaning "no label"; result (B, dim).
    """

    def __init__(self, dim: int, num_classes: int = 0):
        super().__init__()
        self.num_classes = num_classes
        self.noise = nn.Sequential(SinusoidalEmbedding(dim), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
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


class Attention(nn.Module):
    """Residual self-attention over all positions, with `heads` heads.

    Shapes: (B, C, *S) to the same.

    Source: Vaswani et al. 2017, arXiv:1706.03762; in a U-Net, Ho et al. 2020, arXiv:2006.11239, appendix B.
    """

    def __init__(self, channels: int, heads: int, groups: int):
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be split into net.heads={heads} heads")
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Float[Tensor, "batch channels *size"]) -> Float[Tensor, "batch channels *size"]:
        batch, channels, *size = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).view(batch, -1, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        # torch's fused kernel for the CPU is several times slower in its backward pass than plain matrix products.
        backends = [SDPBackend.MATH] if x.device.type == "cpu" else ALL_BACKENDS
        with sdpa_kernel(backends):
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, -1, channels)
        return x + self.out(mixed).transpose(1, 2).reshape(batch, channels, *size)

"""The base class of the networks, and the embedding of noise level and condition that all of them share."""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from src.nets.time_embeddings import SinusoidalEmbedding
from src.utils.ranges import NonNegativeInt, PositiveInt


class NetOptions(TypedDict, total=False):
    """Keyword arguments that every net passes on to `Net`, which documents them."""

    num_classes: NonNegativeInt
    time_embedding: Callable[[int], nn.Module]
    in_channels: PositiveInt | None
    out_channels: PositiveInt | None
    checkpoint: bool


class Net(nn.Module):
    """A network ``net(x, c_noise, cond)``: `ConditionEmbedding`, then the `body` that a subclass defines.

    Shapes: x (B, in_channels, *size); c_noise (B,), the noise level in [0, 1000]; cond None or (B,) int64 in
    [-1, num_classes), -1 for no condition; result (B, out_channels, *size).

    Args:
        channels: channels of the data.
        size: spatial size of the data: (L,), (H, W), (D, H, W), or () for points.
        embed_dim: channels of the embedding of noise level and condition.
        num_classes: number of classes of the condition; 0 makes an unconditional network.
        time_embedding: maps a dimension to a module that embeds c_noise in it.
        in_channels: channels of x, twice those of the data with self-conditioning. Default: `channels`.
        out_channels: channels of the result, twice those of the data with a learned variance. Default: `channels`.
        checkpoint: activation checkpointing, for blocks that `body` calls by `run_block`.
    """

    def __init__(
        self,
        channels: int,
        size: Sequence[int],
        embed_dim: int,
        num_classes: int = 0,
        time_embedding: Callable[[int], nn.Module] = SinusoidalEmbedding,
        in_channels: int | None = None,
        out_channels: int | None = None,
        checkpoint: bool = False,
    ):
        super().__init__()
        self.channels, self.size, self.num_classes = channels, tuple(size), num_classes
        self.in_channels = channels if in_channels is None else in_channels
        self.out_channels = channels if out_channels is None else out_channels
        self.checkpoint = checkpoint
        self.condition_embedding = ConditionEmbedding(embed_dim, num_classes, time_embedding)

    def forward(
        self,
        x: Float[Tensor, "batch in_channels *size"],
        c_noise: Float[Tensor, " batch"],
        cond: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch out_channels *size"]:
        return self.body(x, F.silu(self.condition_embedding(c_noise, cond)))

    def body(self, x: Tensor, embedding: Tensor) -> Tensor:
        """The result (B, out_channels, *size) for x (B, in_channels, *size) and its embedding (B, embed_dim)."""
        raise NotImplementedError

    def run_block(self, block: Callable[..., Tensor], *args: Any) -> Tensor:
        """Call a block; with `checkpoint` its inner activations are not stored but computed again for the gradient.

        Dropout is the same both times.

        Source: Chen et al. 2016, arXiv:1604.06174; `torch.utils.checkpoint`.
        """
        if self.checkpoint and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)


class ConditionEmbedding(nn.Module):
    """Embed the noise level and, if there are classes, the condition in one vector.

    Shapes: c_noise (B,); cond None or (B,) int64 in [-1, num_classes), -1 for no condition; result (B, dim).

    Args:
        dim: dimension of the result.
        num_classes: number of classes; 0 for no condition.
        time_embedding: maps a dimension to a module that embeds c_noise in it.
    """

    def __init__(
        self, dim: int, num_classes: int = 0, time_embedding: Callable[[int], nn.Module] = SinusoidalEmbedding
    ):
        super().__init__()
        self.noise = nn.Sequential(time_embedding(dim), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.label = nn.Embedding(num_classes + 1, dim) if num_classes else None

    def forward(
        self, c_noise: Float[Tensor, " batch"], cond: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch dim"]:
        embedding = self.noise(c_noise)
        if self.label is None:
            if cond is not None:
                raise ValueError("num_classes must be > 0 for a network that is given a condition, got 0")
            return embedding
        if cond is None:
            cond = torch.full(c_noise.shape, -1, device=c_noise.device)
        return embedding + self.label(cond + 1)

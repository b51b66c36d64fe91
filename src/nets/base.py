"""The base class of the networks, and the embedding of noise level and condition that all of them share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from src.nets.layers import zero_init
from src.nets.time_embeddings import SinusoidalEmbedding
from src.utils.ranges import NonNegativeInt, PositiveInt


class NetOptions(TypedDict, total=False):
    """Keyword arguments that every net passes on to `Net`, which documents them."""

    num_classes: NonNegativeInt
    encoders: Mapping[str, Callable[[int], nn.Module]]
    time_embedding: Callable[[int], nn.Module]
    in_channels: PositiveInt | None
    out_channels: PositiveInt | None
    checkpoint: bool
    second_time: bool


class Net(nn.Module):
    """A network ``net(x, c_noise, cond)``: `ConditionEmbedding`, then the `body` that a subclass defines.

    Shapes: x (B, C, *size); c_noise (B,), the noise level in [0, 1000], or of a flow map (B, 2), those of the time of x
    and of the time to which it is taken; cond None or (B,) int64 in [-1, num_classes),
    -1 for no condition, or with encoders what these take, of several a dict by name; result (B, out_channels, *size).

    Args:
        channels: channels of the data.
        size: spatial size of the data: (L,), (H, W), (D, H, W), or () for points.
        embed_dim: channels of the embedding of noise level and condition.
        num_classes: number of classes of the condition; 0 makes a network without classes.
        encoders: makers of the encoders of other conditions, by name: each maps embed_dim to a module (cond, x) ->
            encoded, whose `embedding` is added to that of the noise level, whose `channels` are concatenated to x, and
            whose `tokens` are attended to if the net has cross-attention. Their shapes are those of
            `src.diffusion.conditions.Encoded`.
        time_embedding: maps a dimension to a module that embeds c_noise in it.
        in_channels: channels of x, twice those of the data with self-conditioning. Default: `channels`.
        out_channels: channels of the result, twice those of the data with a learned variance. Default: `channels`.
        checkpoint: activation checkpointing, for blocks that `body` calls by `run_block`.
        second_time: True for the network of a flow map.

    Attributes:
        in_channels: channels of the input of `body`, those of the encoders included.
        token_width: width of the tokens of the encoders; 0 without tokens.
        cross_attention: True for a class whose `body` takes tokens: ``body(x, embedding, tokens, mask)``.

    Raises:
        ValueError: when called, if an encoder gives tokens alone and the net does not take them.
    """

    cross_attention = False

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
        encoders: Mapping[str, Callable[[int], nn.Module]] | None = None,
        second_time: bool = False,
    ):
        super().__init__()
        self.channels, self.size, self.num_classes = channels, tuple(size), num_classes
        self.out_channels = channels if out_channels is None else out_channels
        self.checkpoint = checkpoint
        self.condition_embedding = ConditionEmbedding(embed_dim, num_classes, time_embedding, second_time)
        self.encoders = nn.ModuleDict(make_encoders(encoders or {}, embed_dim))
        concatenated = sum(encoder.channels for encoder in self._encoders())
        self.in_channels = (channels if in_channels is None else in_channels) + concatenated
        self.token_width = self._token_width()

    def forward(
        self,
        x: Float[Tensor, "batch channels *size"],
        c_noise: Float[Tensor, "batch *times"],
        cond: Tensor | dict[str, Tensor] | None = None,
    ) -> Float[Tensor, "batch out_channels *size"]:
        if not self.encoders:
            return self.body(x, F.silu(self.condition_embedding(c_noise, cond)))
        encoded = encode(self.encoders, cond, x)
        embedding = self.condition_embedding(c_noise)
        for part in encoded:
            embedding = embedding if part.embedding is None else embedding + part.embedding
        x_in = torch.cat([x, *(part.channels for part in encoded if part.channels is not None)], 1)
        return self.body(x_in, F.silu(embedding), *self.join_tokens(encoded))

    def body(self, x: Tensor, embedding: Tensor) -> Tensor:
        """The result (B, out_channels, *size) for x (B, in_channels, *size) and its embedding (B, embed_dim)."""
        raise NotImplementedError

    def _encoders(self) -> list[Any]:
        return list(self.encoders.values())

    def join_tokens(self, encoded: list[Any]) -> tuple[Tensor, ...]:
        """The tokens (B, N, W) of all encoded conditions and their mask (B, N), True where there is one; or nothing."""
        if not self.token_width:
            if any(part.embedding is None and part.channels is None for part in encoded):
                raise ValueError(f"{type(self).__name__} has no cross-attention, which this condition needs: net=unet")
            return ()
        some = [part for part in encoded if part.tokens is not None]
        masks = [torch.ones_like(p.tokens[..., 0], dtype=torch.bool) if p.mask is None else p.mask for p in some]
        return torch.cat([part.tokens for part in some], 1), torch.cat(masks, 1)

    def _token_width(self) -> int:
        widths = {encoder.token_width for encoder in self._encoders() if self.cross_attention} - {0}
        if len(widths) > 1:
            raise ValueError(f"the tokens of all conditions must have one width, got {sorted(widths)}")
        return max(widths, default=0)

    def run_block(self, block: Callable[..., Tensor], *args: Any) -> Tensor:
        """Call a block; with `checkpoint` its inner activations are not stored but computed again for the gradient.

        Dropout is the same both times. Within a derivative in forward mode, which ends before the gradient is computed,
        they are stored.

        Source: Chen et al. 2016, arXiv:1604.06174; `torch.utils.checkpoint`.
        """
        dual = any(forward_ad.unpack_dual(x).tangent is not None for x in args if isinstance(x, Tensor))
        if self.checkpoint and torch.is_grad_enabled() and not dual:
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)


def make_encoders(makers: Mapping[str, Callable[[int], nn.Module]], embed_dim: int) -> dict[str, nn.Module]:
    """Make the encoder of each condition.

    Raises:
        ValueError: if a condition has none.
    """
    encoders = {name: make(embed_dim) for name, make in makers.items()}
    if without := [name for name, encoder in encoders.items() if encoder is None]:
        raise ValueError(f"condition `{without[0]}` has no encoder, by which a net takes it in; define its `encoder`")
    return encoders


def encode(encoders: nn.ModuleDict, cond: Tensor | dict[str, Tensor] | None, x: Tensor) -> list[Any]:
    """The encoded conditions, of a single encoder that of a tensor."""
    if cond is None:
        raise ValueError(f"cond must be given: {', '.join(encoders)}, with null values for what is withheld")
    values = cond if isinstance(cond, dict) else dict.fromkeys(encoders, cond)
    return [encoder(values[name], x) for name, encoder in encoders.items()]


class ConditionEmbedding(nn.Module):
    """Embed the noise level and, if there are classes, the condition in one vector.

    Shapes: c_noise (B,), with a second time (B, 2); cond None or (B,) int64 in [-1, num_classes), -1 for no condition;
    result (B, dim).

    Args:
        dim: dimension of the result.
        num_classes: number of classes; 0 for no condition.
        time_embedding: maps a dimension to a module that embeds c_noise in it.
        second_time: True to embed also how far the noise level of a second time is from the first. That starts as
            zero, so that a flow map can start from the weights of a denoiser.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int = 0,
        time_embedding: Callable[[int], nn.Module] = SinusoidalEmbedding,
        second_time: bool = False,
    ):
        super().__init__()
        self.noise = nn.Sequential(time_embedding(dim), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.label = nn.Embedding(num_classes + 1, dim) if num_classes else None
        self.step = None
        if second_time:
            last = zero_init(nn.Linear(dim, dim))
            self.step = nn.Sequential(time_embedding(dim), nn.Linear(dim, dim), nn.SiLU(), last)

    def forward(
        self, c_noise: Float[Tensor, "batch *times"], cond: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch dim"]:
        if self.step is None:
            embedding = self.noise(c_noise)
        else:
            now, then = c_noise.unbind(1)
            embedding = self.noise(now) + self.step(now - then)
        if self.label is None:
            if cond is not None:
                raise ValueError("num_classes must be > 0 for a network that is given a condition, got 0")
            return embedding
        if cond is None:
            cond = torch.full(c_noise.shape[:1], -1, device=c_noise.device)
        return embedding + self.label(cond + 1)

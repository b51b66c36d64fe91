"""A bidirectional recurrent network, for signals."""

from collections.abc import Callable, Sequence
from typing import Unpack

from torch import Tensor, nn
from torch.nn import functional as F

from src.nets.base import Net, NetOptions
from src.nets.layers import LayerNorm, Patches, check_spatial_size, zero_init
from src.utils.ranges import PositiveInt, Probability


class RNNBlock(nn.Module):
    """A residual bidirectional recurrent layer, with the embedding added at each position.

    Shapes: h (B, L, width), embedding (B, embed_dim); result (B, L, width).
    """

    def __init__(self, width: int, embed_dim: int, cell: Callable[..., nn.Module], dropout: float):
        super().__init__()
        self.norm = LayerNorm(width)
        self.embed_proj = nn.Linear(embed_dim, width)
        self.cell = cell(width, width, batch_first=True, bidirectional=True)
        self.out = nn.Sequential(nn.Dropout(dropout), zero_init(nn.Linear(2 * width, width)))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        states, _ = self.cell(self.norm(h) + self.embed_proj(embedding)[:, None])
        return h + self.out(states)


class RNN(Net):
    """Residual bidirectional recurrent layers over the positions of a signal.

    Args:
        channels, size: see `Net`; one spatial axis.
        width: width of the layers, in each direction.
        depth: number of layers.
        patch_size: length of the patches moved to channels; each remaining position costs one step of recurrence.
        cell: torch.nn.GRU, torch.nn.LSTM or torch.nn.RNN.
        dropout: dropout probability in each layer.
        embed_dim, **options: see `Net`.

    Raises:
        ValueError: if the data is not a signal or its length not divisible by `patch_size`, or `cell` is another class.

    Source: Schuster, Paliwal 1997 (bidirectional); Cho et al. 2014, arXiv:1406.1078 (GRU).
    """

    def __init__(
        self,
        channels: PositiveInt,
        size: Sequence[PositiveInt],
        width: PositiveInt = 64,
        depth: PositiveInt = 3,
        patch_size: PositiveInt = 1,
        cell: type[nn.Module] = nn.GRU,
        dropout: Probability = 0.0,
        embed_dim: PositiveInt = 128,
        **options: Unpack[NetOptions],
    ):
        if len(size) != 1:
            raise ValueError(f"data.size must have one axis for an RNN, got {list(size)}; use net=cnn or net=unet")
        check_spatial_size(size, patch_size, f"an RNN with net.patch_size={patch_size}", "another net.patch_size")
        if not issubclass(cell, nn.RNNBase):
            raise ValueError(f"net.cell must be torch.nn.GRU, torch.nn.LSTM or torch.nn.RNN, got {cell.__name__}")
        super().__init__(channels, size, embed_dim, **options)
        self.patches = Patches(patch_size)
        self.stem = nn.Linear(self.in_channels * patch_size, width)
        self.blocks = nn.ModuleList(RNNBlock(width, embed_dim, cell, dropout) for _ in range(depth))
        self.norm = LayerNorm(width)
        self.head = zero_init(nn.Linear(width, self.out_channels * patch_size))

    def body(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.stem(self.patches.patchify(x).transpose(1, 2))
        for block in self.blocks:
            h = self.run_block(block, h, embedding)
        return self.patches.unpatchify(self.head(F.silu(self.norm(h))).transpose(1, 2))

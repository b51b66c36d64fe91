"""A recurrent network that reads a signal in both directions."""

from collections.abc import Callable, Sequence

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from src.nets.encodings import SinusoidalEmbedding
from src.nets.layers import Conditioning, Patches, check_size, zero_init
from src.utils.ranges import NonNegativeInt, PositiveInt, Probability


class Recurrent(nn.Module):
    """A residual recurrent layer in both directions; the embedding is added at each position.

    Shapes: h (B, L, D), embedding (B, E); result (B, L, D).
    """

    def __init__(self, width: int, embedding: int, cell: Callable[..., nn.Module], dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.embedding = nn.Linear(embedding, width)
        self.cell = cell(width, width, batch_first=True, bidirectional=True)
        self.out = nn.Sequential(nn.Dropout(dropout), zero_init(nn.Linear(2 * width, width)))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        read, _ = self.cell(self.norm(h) + self.embedding(embedding)[:, None])
        return h + self.out(read)


class RNN(nn.Module):
    """Residual recurrent layers over a signal, each of which reads it forwards and backwards.

    Shapes: x (B, inputs * channels, L), c_noise (B,), cond None or labels (B,) int64 in [-1, num_classes), -1 for
    none; result (B, outputs * channels, L).

    Args:
        channels: channels of the data.
        size: length of the signals, (L,).
        width: width of the layers, in each direction.
        depth: number of layers.
        patch: length of the patches folded into channels, since each position costs a step of the loop.
        cell: torch.nn.GRU, torch.nn.LSTM or torch.nn.RNN.
        dropout: dropout in each layer.
        embedding: width of what is made of the noise level and the label.
        num_classes: labels to condition on; 0 for none.
        encoding: makes what encodes the noise level, of a width.
        inputs: tensors of the shape of the data that x holds, side by side in channels; 2 with self-conditioning.
        outputs: tensors of the shape of the data that the result holds; 2 where the variance is learned.

    Raises:
        ValueError: where the data is no signal or cannot be divided by the patch, or the cell is not recurrent.

    Source: Schuster, Paliwal 1997 (both directions); Cho et al. 2014, arXiv:1406.1078 (GRU).
    """

    def __init__(
        self,
        channels: PositiveInt,
        size: Sequence[PositiveInt],
        width: PositiveInt = 64,
        depth: PositiveInt = 3,
        patch: PositiveInt = 1,
        cell: type[nn.Module] = nn.GRU,
        dropout: Probability = 0.0,
        embedding: PositiveInt = 128,
        num_classes: NonNegativeInt = 0,
        encoding: Callable[[int], nn.Module] = SinusoidalEmbedding,
        inputs: PositiveInt = 1,
        outputs: PositiveInt = 1,
    ):
        super().__init__()
        if len(size) != 1:
            raise ValueError(f"an RNN reads signals, but data.size is {list(size)}; use net=cnn or net=unet")
        check_size("an RNN", size, patch, f"folds patches of {patch}", "another net.patch")
        if not issubclass(cell, nn.RNNBase):
            raise ValueError(f"net.cell is torch.nn.GRU, torch.nn.LSTM or torch.nn.RNN, not {cell.__name__}")
        self.num_classes = num_classes
        self.conditioning = Conditioning(embedding, num_classes, encoding)
        self.patches = Patches(patch)
        self.stem = nn.Linear(inputs * channels * patch, width)
        self.layers = nn.ModuleList(Recurrent(width, embedding, cell, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = zero_init(nn.Linear(width, outputs * channels * patch))

    def forward(
        self,
        x: Float[Tensor, "batch in_channels length"],
        c_noise: Float[Tensor, " batch"],
        cond: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch out_channels length"]:
        embedding = F.silu(self.conditioning(c_noise, cond))
        h = self.stem(self.patches.fold(x).transpose(1, 2))
        for layer in self.layers:
            h = layer(h, embedding)
        return self.patches.unfold(self.head(F.silu(self.norm(h))).transpose(1, 2))

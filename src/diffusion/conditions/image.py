"""Images and signals that belong to the samples: paired with them, or measured from them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

import torch
from annotated_types import Interval
from jaxtyping import Float
from torch import Tensor

from src.diffusion.conditions.base import Batch, FromData
from src.diffusion.conditions.encoders import ImageEncoder
from src.diffusion.operators import LinearOperator

Dropout = Annotated[float, Interval(ge=0, lt=1)]


class Image(FromData):
    """A picture or a signal that is aligned with each sample, such as a blurred one or an edge map.

    It may be smaller or larger than the sample. The network gets it standardized by the mean and the standard deviation
    of each channel in the training data, resized by nearest neighbors and concatenated to the noisy sample, with a
    channel that says where it is known: an element that is NaN is missing, as the future of a forecast.

    Args:
        shape: (C', *S') of one image.
        dropout: see `Condition`.
        field: the field of a batch that holds the images, float (B, C', *S').

    Attributes:
        mean, std: (C', 1, ...) of the training data; a constant channel has the std 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: Sequence[int], dropout: Dropout = 0.1, field: str = "image"):
        if len(shape) < 2:
            raise ValueError(
                f"the data must give an `{field}` of shape (C, *S) for each sample, but they give none; name it in the "
                "data's settings, or use another condition"
            )
        super().__init__(torch.full((1, *shape), torch.nan), field, dropout)
        self.register_buffer("mean", torch.zeros(shape[0], *[1] * (len(shape) - 1)))
        self.register_buffer("std", torch.ones_like(self.mean))

    def forward(self, batch: Batch) -> Float[Tensor, "batch channels *size"]:
        return batch[self.name].float()

    def prepare(self, cond: Tensor) -> Float[Tensor, "batch channels *size"]:  # type: ignore[override]
        return (cond - self.mean) / self.std

    def encoder(self, embed_dim: int) -> ImageEncoder:
        return ImageEncoder(len(self.mean))

    def fit(self, batches: Iterable[Batch], generator: torch.Generator) -> None:
        """Compute mean and standard deviation of each channel, and keep some examples."""
        sums = torch.zeros(3, len(self.mean), dtype=torch.float64)

        def images() -> Iterable[Tensor]:
            for batch in batches:
                x = self(batch).cpu()
                flat = x.double().transpose(0, 1).flatten(1)
                known = ~flat.isnan()
                flat = flat.nan_to_num()
                sums.add_(torch.stack([known.sum(1), flat.sum(1), flat.square().sum(1)]))
                yield x

        self.examples.keep(images(), generator)
        n, total, squares = sums
        mean = total / n.clamp(min=1)
        std = (squares / n.clamp(min=1) - mean.square()).clamp(min=0).sqrt()
        self.mean.copy_(mean.view_as(self.mean))
        self.std.copy_(torch.where(std > 1e-6 * mean.abs(), std, 1).view_as(self.std))


class Measured(Image):
    r"""An image or a signal that is computed from the sample itself, :math:`y = A x_0`, by an operator of restoration.

    A network that is given it learns to restore: to enlarge, sharpen, color, fill in or forecast. Unlike solvers of
    inverse problems it has seen the degradation in training, and needs neither gradients nor more evaluations.

    Args:
        operator: ``operator(shape=(C, *S))`` makes A for samples of that shape, or any function of samples (B, C, *S).
        channels, size: C and S of one sample.
        dropout: see `Condition`.

    Attributes:
        sample_shape: (C, *S) of one sample.

    Source: Saharia et al. 2022, arXiv:2104.07636 (super-resolution), and arXiv:2111.05826 (colorization, inpainting).
    """

    def __init__(
        self,
        operator: Callable[..., LinearOperator | Callable[[Tensor], Tensor]],
        channels: int,
        size: Sequence[int],
        dropout: Dropout = 0.1,
    ):
        self.sample_shape = (channels, *size)
        self.__dict__["operator"] = operator(shape=(channels, *size))  # no module, and no part of the weights
        super().__init__(self.measure(torch.zeros(1, channels, *size)).shape[1:], dropout)

    @property
    def in_data_units(self) -> bool:
        """True if the image is in the units of the data, as that of a linear operator."""
        return isinstance(self.__dict__["operator"], LinearOperator)

    def measure(self, x: Float[Tensor, "batch channels *size"]) -> Tensor:
        """The image of each sample, NaN where nothing is known of it."""
        operator = self.__dict__["operator"]
        return operator.observe(x) if isinstance(operator, LinearOperator) else operator(x)

    def forward(self, batch: Batch) -> Tensor:
        return self.measure(batch["x"])

    def check_data(self, batch: Batch, n: int) -> None:
        """Refuse nothing: the images come from the samples, which are checked themselves."""

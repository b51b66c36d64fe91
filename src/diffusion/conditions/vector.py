"""Vectors of real numbers."""

from collections.abc import Iterable, Sequence
from math import pi, sqrt
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from jaxtyping import Float
from torch import Tensor

from src.diffusion.conditions.base import Batch, FromData
from src.diffusion.conditions.encoders import VectorEncoder

Period = Annotated[float, Gt(0)] | None


class Vector(FromData):
    r"""A vector of k real numbers that comes with each sample, in units of its own; a single number is k = 1.

    The network gets it standardized by the mean and the standard deviation of the training data, as Fourier features.
    New samples get vectors of the training data unless others are given.

    Args:
        size: k.
        num_frequencies: number of frequencies of the Fourier features.
        dropout: see `Condition`.
        field: the field of a batch that holds the vectors, float (B, k).
        period: of numbers on a circle, such as 360 for angles in degrees: v and v + P are the same. One for all, or one
            for each number, None for those without. The network gets their cosine and sine.

    Attributes:
        mean, std: (k,) of the training data; a constant number has the std 1.

    Source: Tancik et al. 2020, arXiv:2006.10739, section 4 (Fourier features).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        size: Annotated[int, Ge(0)],
        num_frequencies: Annotated[int, Ge(1)] = 6,
        dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.1,
        field: str = "vector",
        period: Period | Sequence[Period] = None,
    ):
        if size < 1:
            raise ValueError(
                f"the data must give a `{field}` of numbers for each sample, but they give none; name it in the data's "
                "settings, or use another condition"
            )
        self.period: list[Period] = list(period) if isinstance(period, Sequence) else [period] * size
        if len(self.period) != size or not all(p is None or p > 0 for p in self.period):
            raise ValueError(f"period must be one number > 0 or null, or one for each of {size} numbers, got {period}")
        super().__init__(torch.full((1, size), torch.nan), field, dropout)
        self.num_frequencies = num_frequencies
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def forward(self, batch: Batch) -> Float[Tensor, "batch k"]:
        return batch[self.name].float()

    def prepare(self, cond: Float[Tensor, "batch k"]) -> Float[Tensor, "batch m"]:  # type: ignore[override]
        return standardized(cond, self.mean, self.std, self.period)

    def encoder(self, embed_dim: int) -> VectorEncoder:
        return VectorEncoder(self.prepare(self.null(1)).shape[1], embed_dim, self.num_frequencies)

    def fit(self, batches: Iterable[Batch], generator: torch.Generator) -> None:
        """Compute mean and standard deviation, and keep some examples."""
        values = torch.cat([self(batch).cpu() for batch in batches])
        refuse_missing(values, self.name)
        std = values.double().std(0, correction=0)
        self.mean.copy_(values.double().mean(0))
        self.std.copy_(torch.where(std > 0, std, 1))
        self.examples.keep([values], generator)

    def check_data(self, batch: Batch, n: int) -> None:
        super().check_data(batch, n)
        refuse_missing(self(batch), self.name)


def standardized(v: Tensor, mean: Tensor, std: Tensor, period: Sequence[Period]) -> Tensor:
    r"""Numbers (B, k) in standard deviations; for one with a period :math:`\sqrt 2 (\cos, \sin)(2 \pi v / P)`."""
    plain = (v - mean) / std
    if not any(period):
        return plain
    columns = []
    for i, p in enumerate(period):
        angle = None if p is None else v[:, i : i + 1] * (2 * pi / p)
        columns += [plain[:, i : i + 1]] if angle is None else [sqrt(2) * angle.cos(), sqrt(2) * angle.sin()]
    return torch.cat(columns, 1)


def restored(z: Tensor, mean: Tensor, std: Tensor, period: Sequence[Period]) -> Tensor:
    """The inverse of `standardized`; numbers with a period P lie between -P / 2 and P / 2."""
    if not any(period):
        return z * std + mean
    columns, at = [], 0
    for i, p in enumerate(period):
        if p is None:
            columns.append(z[:, at] * std[i] + mean[i])
        else:
            columns.append(torch.atan2(z[:, at + 1], z[:, at]) * (p / (2 * pi)))
        at += 1 if p is None else 2
    return torch.stack(columns, 1)


def refuse_missing(values: Tensor, name: str) -> None:
    """Refuse numbers that are not finite."""
    if bad := int((~values.flatten(1).isfinite()).any(1).sum()):
        raise ValueError(
            f"`{name}` of the data must be finite, but {bad:,} of {len(values):,} samples have NaN or infinity in it; "
            "remove or replace them"
        )

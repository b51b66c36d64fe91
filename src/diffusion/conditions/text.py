"""Texts."""

from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Ge, Interval

from src.diffusion.conditions.base import FromData
from src.diffusion.conditions.encoders import Encoder
from src.diffusion.conditions.values import NULL


class Text(FromData):
    """A text that comes with each sample, as UTF-8 bytes padded with -1; the empty text is the null value.

    New samples get texts of the training data unless others are given.

    Args:
        length: N, the bytes of the longest text.
        encoder: makes the part of the network that reads texts, with the arguments text_length and embed_dim.
        dropout: see `Condition`.
        field: the field of a batch that holds the texts, int64 (B, N).
    """

    def __init__(
        self,
        length: Annotated[int, Ge(0)],
        encoder: Callable[..., Encoder],
        dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.1,
        field: str = "text",
    ):
        if length < 1:
            raise ValueError(
                f"the data must give a `{field}` for each sample, but they give none; name it in the data's settings, "
                "or use another condition"
            )
        super().__init__(torch.full((1, length), NULL), field, dropout)
        self.length, self.make_encoder = length, encoder

    def encoder(self, embed_dim: int) -> Encoder:
        return self.make_encoder(text_length=self.length, embed_dim=embed_dim)

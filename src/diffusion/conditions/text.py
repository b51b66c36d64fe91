"""Texts."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge, Interval
from jaxtyping import Int
from torch import Tensor

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

    def read(self, value: Any) -> Int[Tensor, "m n"]:
        """The texts (m, N) of one text, of a list of them, or of their bytes; a number is the text that writes it.

        Raises:
            ValueError: if a text is too long, or is no valid Unicode.
        """
        if isinstance(value, Tensor):
            wanted = f"must be int64 (m, {self.length}), bytes padded with -1"
            if value.ndim != 2 or value.shape[1] != self.length or value.is_floating_point():
                raise ValueError(f"{wanted}, got {value.dtype} {tuple(value.shape)}")
            return value.long()
        texts = value if isinstance(value, list | tuple) else [value]
        if not texts or any(isinstance(text, list | tuple | dict) for text in texts):
            raise ValueError(f"must be a text, or a list of them, got {value}")
        return encode_text(["" if text is None else str(text) for text in texts], self.length)

    def captions(self, cond: Int[Tensor, "batch n"], names: Any = None) -> list[str]:  # type: ignore[override]
        """The texts, empty for null values."""
        return decode_text(cond)


def encode_text(texts: Sequence[str], length: int) -> Int[Tensor, "n length"]:
    """The UTF-8 bytes (n, length) int64 of texts, padded with -1, so that the empty text is the null value.

    Raises:
        ValueError: if a text has more than `length` bytes, or is no valid Unicode.
    """
    result = torch.full((len(texts), length), NULL)
    for row, text in zip(result, texts, strict=True):
        try:
            found = text.encode()
        except UnicodeEncodeError as error:  # half of a surrogate pair, such as from a terminal that is not UTF-8
            raise ValueError(f"must be UTF-8, got {text!r}") from error
        if len(found) > length:
            shown = text if len(text) <= 60 else f"{text[:57]}..."
            raise ValueError(f"must have at most {length} bytes, got {len(found)}: {shown!r}")
        row[: len(found)] = torch.tensor(list(found))
    return result


def decode_text(text: Int[Tensor, "n length"]) -> list[str]:
    """The texts of their bytes (n, length)."""
    return [bytes(b for b in row if b != NULL).decode(errors="replace") for row in text.tolist()]

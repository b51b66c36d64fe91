"""Texts as tensors: their UTF-8 bytes, padded with -1, so that the empty text is the null value of a condition."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

PAD = -1


def encode_text(texts: Sequence[str], length: int) -> Int[Tensor, "n length"]:
    """The UTF-8 bytes (n, length) int64 of texts, padded with -1.

    Raises:
        ValueError: if a text has more than `length` bytes, or is no valid Unicode.
    """
    result = torch.full((len(texts), length), PAD)
    for row, text in zip(result, texts, strict=True):
        try:
            found = text.encode()
        except UnicodeEncodeError as error:  # half of a surrogate pair, such as from a terminal that is not UTF-8
            raise ValueError(f"a text must be UTF-8, got {text!r}") from error
        if len(found) > length:
            shown = text if len(text) <= 60 else f"{text[:57]}..."
            raise ValueError(f"a text may have at most {length} bytes, got {len(found)}: {shown!r}")
        row[: len(found)] = torch.tensor(list(found))
    return result


def decode_text(text: Int[Tensor, "n length"]) -> list[str]:
    """The texts of their bytes (n, length)."""
    return [bytes(b for b in row if b != PAD).decode(errors="replace") for row in text.tolist()]

"""MNIST with captions, made from the class, the thickness and the slant of each digit."""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Unpack

import torch
from torch import Tensor
from torch.utils.data import Dataset

from src.data.captions import DRAWS, LONGEST, phrase
from src.data.mnist import MNIST, MNISTOptions
from src.data.samples import Batch, BatchDataset
from src.diffusion.conditions.text import encode_text
from src.statistics.handwriting import slant, stroke_width
from src.utils.errors import UserError
from src.utils.ranges import PositiveInt
from src.utils.seeding import generator

CHUNK = 2000  # digits measured at a time


class MNISTCaptions(MNIST):
    """Digits with texts such as "a bold slanted 7" or "Three, in thin strokes and leaning left.".

    A digit is thin, medium or bold by its `stroke_width`, and leans to the left, stands upright or leans to the right
    by its `slant`. The phrase is another one in each epoch, a function of (seed, epoch, index); one in five leaves out
    the thickness, and one in five the slant.

    Samples: as those of MNIST, and text (text_length,) int64, UTF-8 bytes padded with -1.

    Args:
        thickness: the stroke widths in pixels at which medium and bold begin.
        slant: the slants in degrees at which upright and right begin.
        text_length: bytes of a text, at least 72.
        **options: see MNIST.

    Raises:
        UserError: if `thickness` or `slant` are not two increasing numbers, captions do not fit in `text_length`, or
            the labels are ignored; and as MNIST.
    """

    def __init__(
        self,
        thickness: Sequence[float] = (2.25, 2.75),
        slant: Sequence[float] = (-2.0, 10.0),
        text_length: PositiveInt = LONGEST,
        **options: Unpack[MNISTOptions],
    ):
        super().__init__(**options)
        self.thickness, self.slant, self.text_length = tuple(thickness), tuple(slant), text_length
        for name, pair in (("thickness", self.thickness), ("slant", self.slant)):
            if len(pair) != 2 or not pair[0] < pair[1]:
                raise UserError(f"data.{name} must be two increasing numbers, such as [2, 3], got {list(pair)}")
        if text_length < LONGEST:
            raise UserError(
                f"data.text_length must be >= {LONGEST}, the bytes of the longest caption, got {text_length}"
            )
        if self.num_classes == 0:
            raise UserError("data.num_classes must be 10, since the captions name the digits, got 0")

    def load(self) -> None:
        super().load()
        self.train_set, self.val_set = self._caption(self.train_set, "train"), self._caption(self.val_set, "val")
        self.source += ", with captions"

    @cached_property
    def test_set(self) -> BatchDataset:  # type: ignore[override]
        return self.val_set if self.missing() else self._caption(super().test_set, "test")

    def values(self, x: Tensor) -> Tensor:
        """The thickness and the slant of digits (B, 1, H, W) in [0, 1] as values 0, 1 or 2: (B, 2) int64."""
        pairs = ((stroke_width(x), self.thickness), (slant(x), self.slant))
        return torch.stack([torch.bucketize(v, torch.tensor(bounds), right=True) for v, bounds in pairs], 1)

    def _caption(self, samples: BatchDataset, part: str) -> "CaptionedSamples":
        chunks = (samples[0, rows] for rows in torch.arange(len(samples)).split(CHUNK))
        said = torch.cat([torch.cat([b["label"][:, None], self.values(self.to_units(b["x"]))], 1) for b in chunks])
        return CaptionedSamples(samples, said, self.text_length, self.seed, part)


class CaptionedSamples(Dataset):
    """Samples with captions, a function of (seed, epoch, index).

    Args:
        samples: the digits.
        said: (N, 3), class, thickness and slant of each.
        text_length: bytes of a text.
        seed: seed of the phrases.
        part: name of the part of the data, whose phrases are drawn independently.
    """

    def __init__(self, samples: BatchDataset, said: Tensor, text_length: int, seed: int, part: str):
        self.samples, self.said, self.text_length, self.seed, self.part = samples, said, text_length, seed, part

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, where: tuple[int, Tensor]) -> Batch:
        epoch, indices = where
        u = phrase_draws(len(self), epoch, self.seed, self.part)[indices]
        said = zip(self.said[indices].tolist(), u.tolist(), strict=True)
        texts = [phrase(digit, thickness, slant, row) for (digit, thickness, slant), row in said]
        return {**self.samples[where], "text": encode_text(texts, self.text_length)}


@lru_cache(maxsize=4)
def phrase_draws(n: int, epoch: int, seed: int, part: str) -> Tensor:
    """The numbers (n, DRAWS) that choose the words of an epoch."""
    return torch.rand(n, DRAWS, generator=generator(seed, "captions", part, epoch))

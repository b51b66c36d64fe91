"""The 8×8 digits of scikit-learn: real images without a download."""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Interval

from src.data.base import DataModule
from src.data.samples import TensorSamples, labels_or_none, split, val_count
from src.utils.errors import UserError
from src.utils.ranges import NonNegativeInt, OpenFraction, PositiveInt
from src.utils.units import Kind


class Digits(DataModule):
    """1,797 handwritten digits of 8×8 pixels; values 0 to 16 are scaled to [-1, 1].

    Samples: float32 (1, 8, 8) and labels 0 to 9. The split does not depend on the seed, so that runs are comparable.

    Args:
        val_fraction: fraction of the digits for validation.
        channels, size, num_classes, batch_size, num_workers, seed: see DataModule; num_classes is 10, or 0 to ignore
            the labels.

    Raises:
        UserError: if the shape or the number of classes is another.

    Source: Alpaydin, Kaynak 1998, Optical Recognition of Handwritten Digits, UCI (test part).
    """

    kind: Kind = "images"

    def __init__(
        self,
        val_fraction: OpenFraction = 0.2,
        channels: PositiveInt = 1,
        size: Sequence[PositiveInt] = (8, 8),
        num_classes: NonNegativeInt = 10,
        batch_size: PositiveInt = 64,
        num_workers: Annotated[int, Interval(ge=0, le=1024)] = 0,
        seed: NonNegativeInt = 0,
    ):
        super().__init__(channels, size, num_classes, batch_size, num_workers, seed)
        if self.shape != (1, 8, 8):
            raise UserError(
                f"data.channels and data.size must be 1 and [8, 8] for these digits, got {channels} and {list(size)}"
            )
        self.val_fraction = val_fraction

    def load(self) -> None:
        from sklearn.datasets import load_digits  # takes two seconds

        digits = load_digits()
        x = torch.from_numpy(digits.images).float()[:, None] / 8 - 1
        label = labels_or_none(torch.from_numpy(digits.target), self.num_classes)
        train, val = split(len(x), val_count(len(x), self.val_fraction), seed=0)
        self.train_set, self.val_set = (TensorSamples(x[i], None if label is None else label[i]) for i in (train, val))
        self.source = f"{len(train):,} train / {len(val):,} validation digits of 8x8, from scikit-learn"

"""Data sets that are read a batch at a time, and their split into training and validation samples."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from src.utils.errors import UserError
from src.utils.seeding import generator

Batch = dict[str, Tensor]


class Indexable(Protocol):
    """Samples (B, C, *S) by indices (B,): a tensor, or files that are decoded on access."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor, /) -> Tensor: ...


class BatchDataset(Protocol):
    """A data set that is read a whole batch at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, where: tuple[int, Tensor]) -> Batch:
        """The samples at (epoch, indices): {"x": float (B, C, *S), "label": int64 (B,) if there are any}.

        Images are in [-1, 1]; other data should have about unit variance. Augmentation must be a function of
        (seed, epoch, index); there is none in epoch -1, in which the training loss is compared with that of validation.
        """
        ...


class TensorSamples(Dataset):
    """Samples indexed by batches, uint8 in [0, 255] or float as they are.

    Args:
        x: (N, C, *S), in memory or decoded on demand.
        label: (N,) int64, or None.
        fields: further fields of each sample, such as `vector`, by name, (N, ...).
        flip: True for random horizontal flips, different in each epoch.
        seed: seed of the flips.
        image: (N, C', *S'), images that belong to the samples and are flipped with them, in memory or decoded on
            demand; uint8 in [0, 255] becomes [0, 1].
    """

    def __init__(
        self, x: Indexable, label: Tensor | None = None, flip: bool = False, seed: int = 0,
        fields: Mapping[str, Tensor] | None = None, image: Indexable | None = None,
    ):  # fmt: skip
        self.x, self.flip, self.seed, self.image = x, flip, seed, image
        self.fields = ({} if label is None else {"label": label}) | dict(fields or {})

    @property
    def label(self) -> Tensor | None:
        """The labels (N,), if there are any."""
        return self.fields.get("label")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, where: tuple[int, Tensor]) -> Batch:
        epoch, indices = where
        there = indices.to(self.x.device, non_blocking=True) if isinstance(self.x, Tensor) else indices
        aligned = {"x": to_unit_range(self.x[there])}
        if self.image is not None:
            image = self.image[there]
            aligned["image"] = image.float().div_(255) if image.dtype == torch.uint8 else image
        if self.flip and epoch >= 0:
            aligned = {name: flip_some(value, epoch, indices, len(self), self.seed) for name, value in aligned.items()}
        return aligned | {name: value[there] for name, value in self.fields.items()}

    def to(self, device: torch.device) -> "TensorSamples":
        """A copy of samples in memory on a device, which gives the same batches there."""
        assert isinstance(self.x, Tensor)
        fields = {name: value.to(device) for name, value in self.fields.items()}
        image = self.image.to(device) if isinstance(self.image, Tensor) else self.image
        return TensorSamples(self.x.to(device), None, self.flip, self.seed, fields, image)


class WithTraining(Dataset):
    """Validation samples, each batch with as many training samples beside it, as its entry `train`.

    They are always the same ones, without augmentation (epoch -1) and spread over the training data, so that the losses
    of both can be compared; where there are fewer than validation samples, they come several times.

    Args:
        val_set, train_set: the samples.
    """

    def __init__(self, val_set: BatchDataset, train_set: BatchDataset):
        self.val_set, self.train_set = val_set, train_set
        n, n_val = len(train_set), len(val_set)
        self.places = torch.arange(n_val) % n if n < n_val else torch.arange(n_val) * n // n_val

    def __len__(self) -> int:
        return len(self.val_set)

    def __getitem__(self, where: tuple[int, Tensor]) -> dict[str, Any]:
        return {**self.val_set[where], "train": self.train_set[-1, self.places[where[1]]]}

    def to(self, device: torch.device) -> "WithTraining":
        """A copy of samples in memory on a device."""
        val_set, train_set = cast(TensorSamples, self.val_set), cast(TensorSamples, self.train_set)
        return WithTraining(val_set.to(device), train_set.to(device))


def to_unit_range(x: Tensor) -> Tensor:
    """Convert uint8 in [0, 255] to float32 in [-1, 1]; floats are returned as they are."""
    return x.float().mul_(2 / 255).sub_(1) if x.dtype == torch.uint8 else x


def flip_some(x: Tensor, epoch: int, indices: Tensor, n: int, seed: int) -> Tensor:
    """Flip images (B, C, *S) left to right with probability one half, as a function of (seed, epoch, index)."""
    mask = flip_mask(n, epoch, seed)[indices].to(x.device, non_blocking=True)
    return torch.where(mask.view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)


@lru_cache(maxsize=2)  # drawing a million takes as long as decoding a batch
def flip_mask(n: int, epoch: int, seed: int) -> Tensor:
    return torch.rand(n, generator=generator(seed, "flip", epoch)) < 0.5


def split(n: int, n_val: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices (n - n_val,) of the training samples and (n_val,) of the validation samples, shuffled by `seed`."""
    order = torch.randperm(n, generator=generator(seed, "split"))
    return order[: n - n_val], order[n - n_val :]


def val_count(n: int, val_fraction: float) -> int:
    """The number of validation samples among n: `val_fraction` of them, at least 1 and at most n - 1."""
    if not 0 < val_fraction < 1:
        raise UserError(f"data.val_fraction must be in (0, 1), got {val_fraction}; use 0.1, for example")
    if n < 2:
        raise UserError(
            f"the data must have at least 2 samples, to split into training and validation, got {n}; add samples"
        )
    return min(max(1, round(val_fraction * n)), n - 1)


def labels_or_none(label: Tensor, num_classes: int) -> Tensor | None:
    """The labels (N,) as int64, or None if num_classes is 0; UserError if it is not the number of classes."""
    found = int(label.max()) + 1
    if num_classes not in (0, found):
        raise UserError(
            f"data.num_classes must be {found}, as the labels are 0 to {found - 1}, or 0 to ignore them, got "
            f"{num_classes}"
        )
    return label.long() if num_classes else None

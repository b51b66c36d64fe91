"""Old and new data together: what a trained model goes on with."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Annotated, Any

import torch
from annotated_types import Interval
from torch import Tensor
from torch.utils.data import Dataset

from src.data.base import DataModule
from src.data.identity import digest
from src.data.samples import Batch, BatchDataset
from src.utils.errors import UserError
from src.utils.ranges import NonNegativeInt, OpenFraction, PositiveInt
from src.utils.units import Kind, Units


class Joined(DataModule):
    """Old and new data, mixed in a fixed proportion: the smaller part comes several times in an epoch.

    Fields of a batch are those that both have. Classes are matched by their names; those of the old data count. Where
    the new data have no test samples, those for validation are divided in two, so that what is tested on was not
    selected on.

    Args:
        old, new: the two.
        kind, units: of the old data, in which the new ones are too.
        share: of the new data in training; in validation both count the same.
        channels, size, num_classes, batch_size, num_workers, seed: see DataModule; num_classes 0 ignores the labels.

    Raises:
        UserError: if the new data have classes that the old ones lack.
    """

    def __init__(
        self,
        old: DataModule,
        new: DataModule,
        kind: Kind,
        units: Mapping[str, Any],
        channels: PositiveInt,
        size: Sequence[PositiveInt],
        num_classes: NonNegativeInt = 0,
        share: OpenFraction = 0.5,
        batch_size: PositiveInt = 64,
        num_workers: Annotated[int, Interval(ge=0, le=1024)] = 0,
        seed: NonNegativeInt = 0,
    ):
        super().__init__(channels, size, num_classes, batch_size, num_workers, seed)
        self.named_kind, self.saved_units, self.share = kind, Units.read(units), share
        self.old, self.new = old, Matched(new, old, num_classes > 0)
        for name in ("vector_size", "vector_names", "image_shape", "text_length"):
            setattr(self, name, getattr(old, name))

    @property
    def kind(self) -> Kind:
        """The kind of a sample."""
        return self.named_kind

    @property
    def units(self) -> Units:
        """The units of the old data."""
        return self.saved_units

    @property
    def class_names(self) -> list[str]:
        """The names of the classes."""
        return class_names(self.old) if self.num_classes else []

    def prepare_data(self) -> None:
        for part in (self.old, self.new):
            part.prepare_data()

    def load(self) -> None:
        for part in (self.old, self.new):
            part.setup()
        mixed = partial(Mixed, labels=self.num_classes > 0)
        self.train_set = mixed(self.old.train_set, self.new.train_set, self.share)
        self.val_set = mixed(self.old.val_set, self.new.val_set, 0.5)
        self._test_set = mixed(self.old.test_set, self.new.test_set, None)
        self.source = f"old: {self.old.source}; new, a share of {self.share:g}: {self.new.source}"
        self.warning = "; ".join(part.warning for part in (self.old, self.new) if part.warning) or None

    @property
    def test_set(self) -> BatchDataset:
        """The test samples of both, each once."""
        return self._test_set

    def contents(self) -> dict[str, Any]:
        """A hash of what identifies the two."""
        return {"files": digest(*(repr(sorted(part.identity().items())) for part in (self.old, self.new)))}


class Matched(DataModule):
    """New data with the classes of old ones, and with test samples of their own.

    Args:
        data: the new data.
        like: the old data.
        labels: True to match the classes, by their names.
    """

    def __init__(self, data: DataModule, like: DataModule, labels: bool):
        super().__init__(data.channels, data.size, like.num_classes if labels else 0, data.batch_size, seed=data.seed)
        self.data, self.like = data, like

    @property
    def kind(self) -> Kind:
        """The kind of a sample."""
        return self.like.kind

    @property
    def units(self) -> Units:
        """The units of the old data."""
        return self.like.units

    def prepare_data(self) -> None:
        self.data.prepare_data()

    def load(self) -> None:
        self.data.setup()
        self.like.setup()
        label = self.places() if self.num_classes else None
        self.train_set, val, test = (
            Chosen(part, torch.arange(len(part)), label)
            for part in (self.data.train_set, self.data.val_set, self.data.test_set)
        )
        if self.data.test_set is self.data.val_set and len(val) > 1:
            val, test = (Chosen(self.data.val_set, torch.arange(first, len(val), 2), label) for first in (0, 1))
        self.val_set, self._test_set = val, test
        self.source, self.warning = self.data.source, self.data.warning

    @property
    def test_set(self) -> BatchDataset:
        """The samples for evaluation."""
        return self._test_set

    def contents(self) -> dict[str, Any]:
        """Those of the new data."""
        return self.data.contents()

    def places(self) -> Tensor:
        """The old number of each new class.

        Raises:
            UserError: for a class that the old data lack.
        """
        known, found = class_names(self.like), class_names(self.data)
        if unknown := [name for name in found if name not in known]:
            raise UserError(
                f"the new data have the class {unknown[0]}, which the run does not know; its classes are "
                f"{', '.join(known[:20])}"
            )
        return torch.tensor([known.index(name) for name in found])


def class_names(data: DataModule) -> list[str]:
    """The names of the classes of data, by default their numbers."""
    return [*(getattr(data, "class_names", None) or map(str, range(data.num_classes)))]


class Chosen(Dataset):
    """Some samples, with their classes by other numbers.

    Args:
        data: the samples.
        rows: (n,), the chosen ones.
        label: (K,), the number of each class; None leaves them.
    """

    def __init__(self, data: BatchDataset, rows: Tensor, label: Tensor | None):
        self.data, self.rows, self.label = data, rows, label

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, where: tuple[int, Tensor]) -> Batch:
        epoch, indices = where
        batch = self.data[epoch, self.rows[indices]]
        return batch if self.label is None else batch | {"label": self.label[batch["label"]]}


class Mixed(Dataset):
    """The samples of two sets in one, with the fields that both have.

    Args:
        first, second: the two.
        share: of the second, reached by repeating the samples of one; None takes each once.
        labels: False to leave the labels out.
    """

    def __init__(self, first: BatchDataset, second: BatchDataset, share: float | None, labels: bool):
        self.parts, self.labels = (first, second), labels
        a, b = len(first), len(second)
        if share is not None:
            a, b = max(a, round(b * (1 - share) / share)), max(b, round(a * share / (1 - share)))
        self.counts = (a, b)

    def __len__(self) -> int:
        return sum(self.counts)

    def __getitem__(self, where: tuple[int, Tensor]) -> Batch:
        epoch, indices = where
        second = indices >= self.counts[0]
        order = torch.argsort(torch.cat([(~second).nonzero()[:, 0], second.nonzero()[:, 0]]))
        halves = (indices[~second], indices[second] - self.counts[0])
        found = [part[epoch, rows % len(part)] for part, rows in zip(self.parts, halves, strict=True) if len(rows)]
        return {name: torch.cat([batch[name] for batch in found])[order] for name in self.names}

    @cached_property
    def names(self) -> list[str]:
        """The names of the fields."""
        first, second = (part[-1, torch.arange(1)] for part in self.parts)
        return [name for name in first if name in second and (self.labels or name != "label")]

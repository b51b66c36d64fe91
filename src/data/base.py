"""What all data have in common: batches whose order is a function of (seed, epoch), and the loaders around them."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Protocol, cast

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from src.data.identity import some_samples
from src.data.workers import outlive_signals
from src.utils.errors import UserError
from src.utils.seeding import generator
from src.utils.units import Kind, kind_of, to_units

Batch = dict[str, Tensor]


class Indexed(Protocol):
    """What gives the samples (B, C, *S) at indices (B,): a tensor, or files decoded when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor, /) -> Tensor: ...


class BatchDataset(Protocol):
    """A data set that is read a whole batch at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, where: tuple[int, Tensor]) -> Batch:
        """The samples at (epoch, indices): {"x": float (B, C, *S), "label": int64 (B,) if there are any}.

        Images lie in [-1, 1]; all else is best of about unit variance.
        The epoch is there for augmentation, which must be a function of (seed, epoch, index).
        """
        ...


class InMemory(Dataset):
    """Samples indexed by batches, uint8 in [0, 255] or float as they are.

    Args:
        x: (N, C, *S), in memory or decoded on demand.
        label: (N,) int64, or None.
        flip: mirror each image left to right with probability one half, anew in each epoch.
        seed: of the flips.
    """

    def __init__(self, x: Indexed, label: Tensor | None = None, flip: bool = False, seed: int = 0):
        self.x, self.label, self.flip, self.seed = x, label, flip, seed

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, where: tuple[int, Tensor]) -> Batch:
        epoch, indices = where
        x = to_unit_range(self.x[indices])
        if self.flip:
            x = flip_some(x, epoch, indices, len(self), self.seed)
        return {"x": x} if self.label is None else {"x": x, "label": self.label[indices]}


def to_unit_range(x: Tensor) -> Tensor:
    """uint8 in [0, 255] to float32 in [-1, 1]; floats pass."""
    return x.float().mul_(2 / 255).sub_(1) if x.dtype == torch.uint8 else x


def flip_some(x: Tensor, epoch: int, indices: Tensor, n: int, seed: int) -> Tensor:
    """Mirror the images whose coin, drawn for each of the n samples from (seed, epoch), falls so."""
    coins = _coins(n, epoch, seed)[indices]
    return torch.where(coins.view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)


@lru_cache(maxsize=2)  # a million take as long to draw as a batch to decode
def _coins(n: int, epoch: int, seed: int) -> Tensor:
    return torch.rand(n, generator=generator(seed, "flip", epoch)) < 0.5


def mixed(n: int, draws: torch.Generator, shards: Tensor | None = None, shuffle_window: int = 1) -> Tensor:
    """Return a random order (n,) of the samples; with shards, `shuffle_window` shards at a time.

    Args:
        n: number of samples.
        draws: random number generator.
        shards: (n,) the shard of each sample. Shards follow each other in random order, and the samples of
            `shuffle_window` consecutive ones are shuffled together.
        shuffle_window: number of shards.
    """
    order = torch.randperm(n, generator=draws)
    if shards is None:
        return order
    turn = torch.randperm(int(shards.max()) + 1, generator=draws) // shuffle_window
    return order[turn[shards[order]].argsort(stable=True)]


def split(n: int, n_val: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices (n - n_val,) of the training samples and (n_val,) of the rest, the end of a shuffle by `seed`."""
    order = torch.randperm(n, generator=generator(seed, "split"))
    return order[: n - n_val], order[n - n_val :]


def val_count(n: int, val_fraction: float) -> int:
    """The samples of n that `val_fraction` stands for: at least 1, and at most all but 1."""
    if not 0 < val_fraction < 1:
        raise UserError(
            f"data.val_fraction={val_fraction} is no share for validation; use one between 0 and 1, such as 0.1"
        )
    if n < 2:
        raise UserError(f"{n} sample(s) cannot be split for training and validation; give at least 2")
    return min(max(1, round(val_fraction * n)), n - 1)


def labels_if_asked(label: Tensor, num_classes: int) -> Tensor | None:
    """The labels (N,) as int64, or None where num_classes is 0; any other number than theirs is refused."""
    found = int(label.max()) + 1
    if num_classes not in (0, found):
        raise UserError(
            f"data.num_classes={num_classes}, but the labels are 0 to {found - 1}; "
            f"set data.num_classes={found}, or 0 to ignore the labels"
        )
    return label.long() if num_classes else None


class EpochBatches(Sampler[tuple[int, Tensor]]):
    """The batches of an epoch, as (epoch, indices): this process's share of each global batch.

    Shuffled, the order is a function of (seed, epoch) and incomplete batches are left out; otherwise samples come in
    order and the last batch may be smaller. `start` batches are skipped in the first epoch walked, which is how a
    resumed run goes on in mid-epoch.

    Args:
        n: samples in the data set.
        batch_size: size of a global batch, over all processes.
        shuffle: whether to shuffle.
        seed: of the order.
        rank, world_size: this process and how many there are; it takes every world_size-th sample.
        epoch, start: where to begin.
        shards, shuffle_window: see `mixed`, for data that should not be read at random.
        repeat: give every epoch the order and the augmentation of the first.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        epoch: int = 0,
        start: int = 0,
        shards: Tensor | None = None,
        shuffle_window: int = 1,
        repeat: bool = False,
    ):
        self.n, self.batch_size, self.shuffle, self.seed = n, batch_size, shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.first_epoch, self.start = epoch, start
        self.epoch = epoch
        self.shards, self.shuffle_window, self.repeat = shards, shuffle_window, repeat

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n // self.batch_size if self.shuffle else -(-self.n // self.batch_size)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        start = self.start if self.epoch == self.first_epoch else 0
        epoch = 0 if self.repeat else self.epoch
        order = torch.arange(self.n)
        if self.shuffle:
            order = mixed(self.n, generator(self.seed, "order", epoch), self.shards, self.shuffle_window)
        for batch in range(start, len(self)):
            indices = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield epoch, indices[self.rank :: self.world_size]


class DataModule(pl.LightningDataModule):
    """Base of all data. A new one sets `train_set`, `val_set` and `source` in `load`.

    Attributes:
        channels, size: shape of a sample, (C, *S).
        num_classes: number of labels; 0 where there are none.
        kind: points, signals, images, fields or volumes. Samples with two axes are fields unless their class says
            `kind = "images"`: those lie in [-1, 1], and are shown, kept and compared in [0, 1].
        shards, shuffle_window: of the training samples, see `mixed`; set in `load` for data without fast random access.
        source: where the data came from, a line for the summary; set in `load`.
        warning: what the user must know of the data, or None; set in `load`.
        position: the (epoch, batch) at which training begins; set where a run is resumed.
        repeat: whether every epoch has the order and the augmentation of the first.

    Args:
        channels, size, num_classes: as above.
        batch_size: size of a global batch, shared out among the processes.
        num_workers: processes that load batches; 0 loads them in the training process, best for data in memory.
        seed: of order, split and augmentation.
    """

    train_set: BatchDataset
    val_set: BatchDataset
    shards: Tensor | None = None
    shuffle_window: int = 1
    source: str = ""
    warning: str | None = None
    position: tuple[int, int] = (0, 0)
    repeat: bool = False

    def __init__(
        self,
        channels: int,
        size: Sequence[int],
        num_classes: int = 0,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
    ):
        super().__init__()
        self.channels, self.size, self.num_classes = channels, tuple(size), num_classes
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed

    def load(self) -> None:
        """Set `train_set`, `val_set`, `source` and `warning`, in every process and without downloading."""
        raise NotImplementedError

    @property
    def loaded(self) -> bool:
        """Whether `load` is done."""
        return "train_set" in vars(self)

    def setup(self, stage: str | None = None) -> None:
        """Load, once: Lightning calls this before each of fit, validate and test."""
        if not self.loaded:
            self.load()

    @property
    def test_set(self) -> BatchDataset:
        """What a finished model is evaluated on: the validation samples, where there are no others."""
        return self.val_set

    def identity(self) -> dict[str, Any]:
        """What tells these data from others, wherever they lie: a run goes on with the same ones only.

        Numbers of samples, and of some of them the means; data that come from files may tell more.
        """
        parts = {"training samples": self.train_set, "validation samples": self.val_set}
        return {name: len(part) for name, part in parts.items()} | self.contents()

    def contents(self) -> dict[str, Any]:
        """What `identity` tells beside the numbers, by a name that reads well after "other"."""
        return {"values in them": some_samples(self.train_set) + some_samples(self.val_set)}

    def warn(self, text: str) -> None:
        """Add to what the user must know."""
        self.warning = f"{text}. {self.warning}" if self.warning else text

    @property
    def kind(self) -> Kind:
        """What one sample is."""
        return kind_of(len(self.size))

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, *S) of one sample."""
        return (self.channels, *self.size)

    @property
    def train_batches(self) -> int:
        """Global batches in an epoch."""
        return len(self.train_set) // self.batch_size

    def val_batch_size(self, batch: int) -> int:
        """Size of a global batch of the validation data, of which the last may be smaller."""
        return min(self.batch_size, len(self.val_set) - batch * self.batch_size)

    def check_batch_size(self, world_size: int) -> None:
        """Refuse a batch size that the data, where they are loaded, or the processes cannot fill.

        Raises:
            UserError: naming a size that fits.
        """
        if self.batch_size < 1 or self.batch_size % world_size:
            fitting = max(1, round(self.batch_size / world_size)) * world_size
            raise UserError(
                f"data.batch_size={self.batch_size}, the global batch, cannot be shared out evenly among {world_size} "
                f"processes; use {fitting}"
            )
        if self.loaded and len(self.train_set) < self.batch_size:
            n = len(self.train_set)
            raise UserError(f"data.batch_size={self.batch_size} is more than the {n} training samples; use at most {n}")

    def check_samples(self) -> None:
        """Look at the first training and validation samples before anything is trained on them.

        Raises:
            UserError: where they are no finite floats of the stated shape, images outside [-1, 1], or labels that do
                not fit num_classes.
        """
        name = type(self).__name__
        for part, data in {"train_set": self.train_set, "val_set": self.val_set}.items():
            if not len(data):
                raise UserError(f"data: {name}.{part} is empty")
            batch = data[0, torch.arange(min(8, len(data)))]
            x, label = batch["x"], batch.get("label")
            if not x.is_floating_point() or x.shape[1:] != self.shape:
                raise UserError(
                    f"data: {name}.{part} must give floats of shape (B, {', '.join(map(str, self.shape))}), as "
                    f"data.channels and data.size say, got {x.dtype} of shape {tuple(x.shape)}"
                )
            if not x.isfinite().all():
                raise UserError(f"data: {name}.{part} has values that are not finite; remove or replace them")
            if self.kind == "images" and x.abs().max() > 1.001:
                raise UserError(
                    f"data: images must lie in [-1, 1], but {name}.{part} reaches {x.abs().max():.3g}; scale them, or "
                    'leave out kind = "images" for fields in units of their own'
                )
            if label is not None and self.num_classes and not (label.min() >= 0 and label.max() < self.num_classes):
                raise UserError(
                    f"data: labels must be 0 to {self.num_classes - 1}, as data.num_classes={self.num_classes} says, "
                    f"but {name}.{part} has {int(label.min())} to {int(label.max())}"
                )

    def to_units(self, x: Tensor, clip: bool = True) -> Tensor:
        """From the units of the model to the data's own: images to [0, 1], all else as it is."""
        return to_units(x, self.kind, clip)

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.val_set, shuffle=False)

    def _loader(self, data: BatchDataset, shuffle: bool) -> DataLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        self.check_batch_size(world_size)
        place = (rank, world_size, *(self.position if shuffle else (0, 0)))
        how = (self.shards, self.shuffle_window, self.repeat)
        batches = EpochBatches(len(data), self.batch_size, shuffle, self.seed, *place, *how)
        return DataLoader(
            cast(Dataset, data),
            batch_size=None,
            sampler=batches,
            num_workers=self.num_workers,
            worker_init_fn=outlive_signals,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

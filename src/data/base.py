"""DataModule, the base class of all data."""

from collections.abc import Sequence
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src.data.batch_sampler import EpochBatchSampler
from src.data.identity import some_samples
from src.data.on_device import CopiedAhead, is_held
from src.data.samples import BatchDataset, TensorSamples, WithTraining
from src.data.workers import outlive_signals
from src.utils.errors import UserError
from src.utils.units import Kind, Units, kind_of, units_of


class DataModule(pl.LightningDataModule):
    """Base class of all data; a subclass sets `train_set`, `val_set` and `source` in `load`.

    Attributes:
        channels, size: shape of a sample, (C, *S).
        num_classes: number of classes; 0 for data without labels.
        vector_size, vector_names: number k of entries of the field `vector` (k,), and their names; 0 without it.
        image_shape: shape (C', *S') of the field `image`; empty without it.
        text_length: length N of the field `text` (N,); 0 without it.
        kind: points, signals, images, fields or volumes. Samples with two axes are fields unless their class says
            `kind = "images"`: their values are in [-1, 1] in the model, and in [0, 1] in files, plots and metrics.
        shards, shuffle_window: shuffling of the training samples, see `shuffled_order`; set in `load` for data that
            are slow to read at random.
        source: origin of the data, one line for the summary; set in `load`.
        warning: a warning for the user, or None; set in `load`.
        position: the (epoch, batch) at which training begins; set when a run is resumed.
        repeat: True to give every epoch the order and the augmentation of the first.

    Args:
        channels, size, num_classes: as above.
        batch_size: size of a global batch, divided among the processes.
        num_workers: processes that load batches; 0 loads them in the training process, best for data in memory.
        seed: seed of order, split and augmentation.
    """

    train_set: BatchDataset
    val_set: BatchDataset
    vector_size: int = 0
    vector_names: Sequence[str] = ()
    image_shape: Sequence[int] = ()
    text_length: int = 0
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

    @classmethod
    def resolve(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings that follow from the data themselves, such as `channels` from the header of a file.

        They are put into the config of a new run before other parts refer to them; none by default.

        Args:
            settings: all settings of the data, as plain containers.

        Raises:
            UserError: if the data cannot be used.
        """
        return {}

    def load(self) -> None:
        """Set `train_set`, `val_set`, `source` and `warning`, in every process and without downloading."""
        raise NotImplementedError

    @property
    def loaded(self) -> bool:
        """True if `load` was called."""
        return "train_set" in vars(self)

    def setup(self, stage: str | None = None) -> None:
        """Load, once: Lightning calls this before each of fit, validate and test."""
        if not self.loaded:
            self.load()

    @property
    def test_set(self) -> BatchDataset:
        """The samples for evaluation; by default the validation samples."""
        return self.val_set

    def read_more(self, root: str) -> BatchDataset | None:
        """Read further samples from another file or folder, as those for validation are read.

        Returns:
            The samples, without augmentation; None if the class reads none, and only pictures and arrays can be given.

        Raises:
            UserError: if they cannot be read, or have another shape.
        """
        return None

    def identity(self) -> dict[str, Any]:
        """A fingerprint of the data, independent of where they are stored: a run resumes with the same data only.

        It holds the numbers of samples and the means of some; data from files may add more.
        """
        parts = {"training samples": self.train_set, "validation samples": self.val_set}
        return {name: len(part) for name, part in parts.items()} | self.contents()

    def contents(self) -> dict[str, Any]:
        """The parts of `identity` other than the numbers; messages put the word "other" before each name."""
        return {"values in them": some_samples(self.train_set) + some_samples(self.val_set)}

    def warn(self, text: str) -> None:
        """Prepend a text to `warning`."""
        self.warning = f"{text}. {self.warning}" if self.warning else text

    @property
    def kind(self) -> Kind:
        """The kind of a sample."""
        return kind_of(len(self.size))

    @property
    def units(self) -> Units:
        """The units of the data; those of images are [0, 1], others are as in the model unless the class says more."""
        return units_of(self.kind)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, *S) of one sample."""
        return (self.channels, *self.size)

    @property
    def train_batches(self) -> int:
        """The number of global batches in an epoch."""
        return len(self.train_set) // self.batch_size

    def val_batch_size(self, batch: int) -> int:
        """The size of a global batch of the validation data; the last may be smaller."""
        return min(self.batch_size, len(self.val_set) - batch * self.batch_size)

    def check_batch_size(self, world_size: int) -> None:
        """Check that the processes, and the data if they are loaded, can fill the batches.

        Raises:
            UserError: if they cannot; the message names a size that fits.
        """
        if self.batch_size < 1 or self.batch_size % world_size:
            fitting = max(1, round(self.batch_size / world_size)) * world_size
            raise UserError(
                f"data.batch_size, the global batch, must be a positive multiple of the {world_size} processes, got "
                f"{self.batch_size}; use {fitting}"
            )
        if self.loaded and len(self.train_set) < self.batch_size:
            n = len(self.train_set)
            raise UserError(
                f"data.batch_size must be at most {n}, the number of training samples, got {self.batch_size}"
            )

    def check_samples(self) -> None:
        """Check the first training and validation samples before the training.

        Raises:
            UserError: if they are not finite floats of the stated shape, images are outside [-1, 1], or labels do not
                fit num_classes.
        """
        name = type(self).__name__
        for part, data in {"train_set": self.train_set, "val_set": self.val_set}.items():
            if not len(data):
                raise UserError(f"data: {name}.{part} must not be empty; give at least one sample")
            batch = data[0, torch.arange(min(8, len(data)))]
            x, label = batch["x"], batch.get("label")
            if not x.is_floating_point() or x.shape[1:] != self.shape:
                raise UserError(
                    f"data: {name}.{part} must give floats of shape (B, {', '.join(map(str, self.shape))}), as "
                    f"data.channels and data.size say, got {x.dtype} of shape {tuple(x.shape)}"
                )
            if not x.isfinite().all():
                raise UserError(
                    f"data: {name}.{part} must be finite, got NaN or infinity; remove or replace these values"
                )
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
        """Convert from the units of the model to those of the data: images to [0, 1]."""
        return self.units.to_units(x, clip)

    def to_model(self, x: Tensor) -> Tensor:
        """Convert from the units of the data to those of the model: images to [-1, 1]."""
        return self.units.to_model(x)

    def train_dataloader(self) -> Any:
        return self._loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> Any:
        return self._loader(WithTraining(self.val_set, self.train_set), shuffle=False)

    def _loader(self, data: BatchDataset, shuffle: bool) -> Any:
        """A loader of this process's shares of the batches, for a GPU one that gives them there."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        held = is_held(data, device)
        if held:
            data = cast(TensorSamples | WithTraining, data).to(device)
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        self.check_batch_size(world_size)
        place = (rank, world_size, *(self.position if shuffle else (0, 0)))
        how = (self.shards, self.shuffle_window, self.repeat)
        batches = EpochBatchSampler(len(data), self.batch_size, shuffle, self.seed, *place, *how)
        workers = 0 if held else self.num_workers
        loader = DataLoader(
            cast(Dataset, data),
            batch_size=None,
            sampler=batches,
            num_workers=workers,
            worker_init_fn=outlive_signals,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda" and not held,
        )
        return CopiedAhead(loader, device) if device.type == "cuda" and not held else loader

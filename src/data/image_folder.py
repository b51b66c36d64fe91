"""Folders, zip archives and tar shards of images."""

from collections import Counter
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from torch import Tensor

from src.data.base import DataModule
from src.data.identity import digest, digest_of_files
from src.data.image_files import Files, Subset
from src.data.image_pairs import partners
from src.data.images import Decoder, OnDisk, decode_all, find_unreadable
from src.data.index import FileIndex
from src.data.samples import Indexable, TensorSamples, split, val_count
from src.data.scan import find_images
from src.data.workers import cpus
from src.utils.budget import CLASSES
from src.utils.errors import UserError, printable
from src.utils.images import ENDINGS
from src.utils.ranges import Fraction, NonNegativeFloat, NonNegativeInt, OpenFraction, PositiveInt
from src.utils.units import Kind


class ImageFolder(DataModule):
    """Image files of any format that Pillow reads, in a tree of folders, a zip file or tar shards.

    Samples: (C, H, W) in [-1, 1]; the label is the index of the top-level folder in the sorted `class_names`. Top-level
    folders with the usual names for train and val or test hold the two parts of the data, with the classes below
    them; if there are all three, test is not used. A single folder around everything is skipped. Shards may give
    labels as `cls` files instead. Images are decoded once into memory if they fit, else by workers on access; the
    batches are the same either way.

    Args:
        root: folder, zip file or tar file, or many tar files: their folder, a/train-*.tar, or a/train-{000..099}.tar.
        val_root: the same for validation; by default the validation images in root, or else a fraction of all.
        val_fraction: that fraction, drawn by the seed.
        image: folder, zip file or tar shards with a partner of the same path and name for each image, such as an edge
            map, for condition=image. Partners are in [0, 1], resized and mirrored as their images are.
        val_image: the same for `val_root`.
        image_shape: (C', H', W') of the partners; by default that of the images.
        resize: `crop` fills the size and crops the rest evenly; `stretch` changes the proportions.
        flip: mirror training images left to right with probability one half.
        cache_gb: memory for decoded images, in GB per training process; 0 decodes on every access.
        max_unreadable: largest fraction of unreadable images; up to it they are left out.
        shuffle_window: number of shards that are shuffled together, in an order that changes each epoch; 0 shuffles
            all images.
        index, rescan: folder for the lists of files, and True to scan again; see FileIndex.
        channels, size, num_classes, batch_size, num_workers, seed: see DataModule; channels is 1 or 3, size (H, W).
            num_classes is the number of class folders, or 0 to ignore them. num_workers 0 becomes the number of cores,
            at most 8, if images are not in memory.

    Raises:
        UserError: if there are no images, too many are unreadable, or a setting does not fit the images.
    """

    kind: Kind = "images"

    def __init__(
        self,
        root: str | None,
        val_root: str | None = None,
        val_fraction: OpenFraction = 0.05,
        image: str | None = None,
        val_image: str | None = None,
        image_shape: Sequence[PositiveInt] | None = None,
        resize: Literal["crop", "stretch"] = "crop",
        flip: bool = True,
        cache_gb: NonNegativeFloat = 2.0,
        max_unreadable: Fraction = 0.01,
        shuffle_window: NonNegativeInt = 0,
        index: str | None = None,
        rescan: bool = False,
        channels: PositiveInt = 3,
        size: Sequence[PositiveInt] = (32, 32),
        num_classes: NonNegativeInt = 0,
        batch_size: PositiveInt = 64,
        num_workers: Annotated[int, Interval(ge=0, le=1024)] = 0,
        seed: NonNegativeInt = 0,
    ):
        super().__init__(channels, size, num_classes, batch_size, num_workers, seed)
        if channels not in (1, 3):
            raise UserError(f"data.channels must be 1 (grayscale) or 3 (RGB), got {channels}")
        if len(self.size) != 2 or min(self.size) < 1:
            raise UserError(f"data.size must be height and width, such as [32,32], got {list(size)}")
        if resize not in ("crop", "stretch"):
            raise UserError(f"data.resize must be crop or stretch, got {resize}")
        if shuffle_window < 0:
            raise UserError(f"data.shuffle_window must be >= 0, got {shuffle_window}; 0 shuffles all images")
        if image is not None and (val_root is None) != (val_image is None):
            missing, there = ("val_image", "val_root") if val_image is None else ("val_root", "val_image")
            raise UserError(f"data.{there} needs data.{missing} beside it, as data.image is set; set both, or neither")
        self.root, self.val_root, self.val_fraction = root, val_root, val_fraction
        self.image, self.val_image = image, val_image
        self.image_shape = [] if image is None else list(image_shape or self.shape)
        self.flip, self.cache_gb, self.max_unreadable = flip, cache_gb, max_unreadable
        self.shuffle_window, self.index = shuffle_window, FileIndex(index, rescan)
        self.decoder = Decoder(channels, size, resize)
        if self.image_shape:
            if len(self.image_shape) != 3 or self.image_shape[0] not in (1, 3):
                raise UserError(f"data.image_shape must be channels (1 or 3), height and width, got {self.image_shape}")
            self.image_decoder = Decoder(self.image_shape[0], self.image_shape[1:], resize)
        self.class_names: list[str] = []
        self.unused = ""

    @classmethod
    def resolve(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """The shape of the partners."""
        return {"image_shape": cls(**settings).image_shape}

    def load(self) -> None:
        if self.root is None:
            raise UserError("data.root is not set; set data.root=FOLDER, a zip file or tar shards, with the images")
        train, val = self.parts = self._parts(self.root)
        n = len(train) + len(val)
        gigabytes = n * (prod(self.shape) + (prod(self.image_shape) if self.image_shape else 0)) / 1e9
        cached = gigabytes <= self.cache_gb
        if not cached and self.num_workers == 0:
            self.num_workers = min(cpus(), 8)
        self.partner_files: dict[str, Files] = {}
        train_set, good, bad = self._read(train, self.root, self.image, cached, training=True)
        val_set, _, bad_val = self._read(
            val, self.val_root or self.root, self.val_image or self.image, cached, training=False
        )
        remarks = [self._judge(bad + bad_val, n), *self._remarks(train, val)]
        self.warning = printable("; ".join(filter(None, remarks))) or None
        self.shards = train.files.archive(good.indices) if self.shuffle_window else None
        self.source = printable(
            f"{len(train_set):,} train / {len(val_set):,} validation images from {self.root}"
            + (f" and {self.val_root}" if self.val_root else "")
            + (f", with partners from {self.image}" if self.image else "")
            + f", {len(self.class_names)} classes, "
            + (f"in memory ({gigabytes:.2g} GB)" if cached else f"decoded by {self.num_workers} workers")
            + (f"; not used: {self.unused}" if self.unused else "")
        )
        self.train_set, self.val_set = train_set, val_set

    def read_more(self, root: str) -> TensorSamples | None:
        """Read the images of another folder or archive; with labels if each is in a folder named like a class."""
        if Path(root).suffix.lower() in (".npy", ".npz", *ENDINGS):
            return None
        part = Subset.of(find_images(root, "data.val_root", self.index)).unwrapped(keep=self.class_names)
        labeled = part.files.label is not None or {*map(printable, part.tops()[0])} <= {*self.class_names}
        label = self._labels(part, root) if self.num_classes and labeled else None
        x, good, bad = decode_all(OnDisk(part, self.decoder, self.shape))
        if said := self._judge(bad, len(part)):
            self.warn(said)
        return TensorSamples(x, None if label is None else label[good])

    def find_classes(self) -> list[str]:
        """The names of the classes, without reading the images."""
        self._parts(str(self.root))
        return self.class_names

    def contents(self) -> dict[str, Any]:
        """A hash of names and sizes of the files, which is faster to compute than one of their contents."""
        files = {id(part.files): part.files for part in self.parts}
        return {"files": digest(*map(digest_of_files, [*files.values(), *self.partner_files.values()]))}

    def _parts(self, root: str) -> tuple[Subset, Subset]:
        """Find the training images, whose folders name the classes, and the validation images."""
        train = everything = Subset.of(find_images(root, "data.root", self.index)).unwrapped()
        given = everything.split()
        if given:
            train, _, self.unused = given
        self.class_names = self._classes(train)
        self._check_classes()
        if self.val_root is not None:
            if given:
                self.unused = ", ".join(filter(None, (f"{given[1].prefix} ({len(given[1]):,} images)", self.unused)))
            others = Subset.of(find_images(self.val_root, "data.val_root", self.index))
            return train, self._shuffled(others.unwrapped(keep=self.class_names))
        if given:
            return train, self._shuffled(given[1])
        n = len(train)
        indices, val_indices = split(n, val_count(n, self.val_fraction), self.seed)
        return train.only(indices), train.only(val_indices)

    def _shuffled(self, part: Subset) -> Subset:
        """Shuffle the images, so that the first few are a sample of all classes."""
        return part.only(split(len(part), len(part), self.seed)[1])

    def _classes(self, train: Subset) -> list[str]:
        """The names of the classes: those of the folders, or the numbers in shards."""
        if train.files.label is None:
            return [printable(name) for name in train.tops()[0] if name]
        most = int(train.files.label[train.indices].max())
        if most >= max(CLASSES, len(train)):
            raise UserError(
                f"classes in {self.root} must be numbered 0, 1, 2, ..., below {CLASSES:,} or the number of images, "
                f"{len(train):,}, got {most:,}; renumber them"
            )
        return [str(i) for i in range(most + 1)]

    def _check_classes(self) -> None:
        found, asked = len(self.class_names), self.num_classes
        if asked and asked != found:
            some = ", ".join(self.class_names[:3]) + (", ..." if found > 3 else "")
            raise UserError(
                f"data.num_classes must be {found}, the number of classes in {self.root}"
                f"{f' ({some}), or 0 to ignore them' if found else ''}, got {asked}"
            )

    def _read(
        self, part: Subset, root: str, image: str | None, cached: bool, training: bool
    ) -> tuple[TensorSamples, Subset, list[str]]:
        """Read a part with its partners: its samples, their images, and the errors of unreadable ones."""
        label = self._labels(part, root) if self.num_classes else None
        images = OnDisk(part, self.decoder, self.shape, ahead=training and self.shuffle_window > 0)
        x, good, bad = self._decoded(images, root, cached)
        paired: Indexable | None = None
        if image is not None:
            others = OnDisk(self._partners(part.only(good), image, training), self.image_decoder, self.image_shape)
            paired, readable, unreadable = self._decoded(others, image, cached)
            if unreadable:
                x = x[readable] if isinstance(x, Tensor) else images.only(good[readable])
                good, bad = good[readable], bad + unreadable
        label = None if label is None else label[good]
        return TensorSamples(x, label, self.flip and training, self.seed, image=paired), part.only(good), bad

    def _decoded(self, images: OnDisk, root: str, cached: bool) -> tuple[Indexable, Tensor, list[str]]:
        """The readable images, in memory or on access, their positions (n,), and the errors of the others."""
        if cached:
            return decode_all(images)
        good, bad = self._look(images.part, root)
        return images.only(good), good, bad

    def _partners(self, part: Subset, image: str, training: bool) -> Subset:
        """The partners of the images of a part."""
        key = "data.image" if training or self.val_image is None else "data.val_image"
        if image not in self.partner_files:
            self.partner_files[image] = find_images(image, key, self.index)
        return partners(part, Subset.of(self.partner_files[image]), f"{key}={image}")

    def _look(self, part: Subset, root: str) -> tuple[Tensor, list[str]]:
        """Find the positions (n,) of the images with a valid header, and the errors of the others."""
        files = part.files
        if files.complaints is None:
            files.complaints = find_unreadable(files)
            self.index.save(Path(root).expanduser(), files)
        damaged = torch.isin(part.indices, torch.tensor(list(files.complaints), dtype=torch.int64))
        return (~damaged).nonzero()[:, 0], [files.complaints[i] for i in part.indices[damaged].tolist()]

    def _labels(self, part: Subset, root: str) -> Tensor:
        """The class (N,) int64 of each image: the number in its shard, or the index of its folder."""
        if part.files.label is not None:
            label = part.files.label[part.indices]
            if int(label.max()) >= self.num_classes:
                raise UserError(
                    f"labels in {root} must be 0 to {self.num_classes - 1}, as in {self.root}, got {int(label.max())}; "
                    "give both the same classes, or set data.num_classes=0"
                )
            return label
        tops, folder = part.tops()
        folders = list(map(printable, tops))
        for i, name in enumerate(folders):
            if name not in self.class_names:
                image = part.files.name(int(part.indices[folder == i][0]))
                raise UserError(
                    f"{image} must be in one of the class folders of {self.root}; move it, or set data.num_classes=0"
                )
        return torch.tensor([self.class_names.index(name) for name in folders])[folder]

    def _remarks(self, train: Subset, val: Subset) -> Iterator[str]:
        """Yield warnings about the interpretation of the files."""
        for root, files in {self.root: train.files, self.val_root or self.root: val.files}.items():
            if files.passed_over:
                yield f"passed over in {root}: {files.passed_over}"
        if folders := train.held_out():
            more = f" and {len(folders) - 1:,} more folders" if folders[1:] else ""
            yield (
                f"training images include {folders[0]}{more}, whose name suggests validation or test data; "
                "move them, or set data.root and data.val_root"
            )
        alike = Counter(name.lower() for name in self.class_names)
        if twice := [name for name in self.class_names if alike[name.lower()] > 1]:
            yield f"classes differ only in case: {', '.join(twice[:4])}"

    def _judge(self, bad: Sequence[str], n: int) -> str | None:
        if not bad:
            return None
        violation = (
            f"{len(bad):,} of {n:,} images cannot be read: {', '.join(bad[:5])}{', ...' if len(bad) > 5 else ''}"
        )
        if len(bad) > self.max_unreadable * n:
            raise UserError(f"{violation}; repair or remove them, or raise data.max_unreadable={self.max_unreadable}")
        return f"{violation}; they are left out"

"""Folders and zip archives of images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from src.data.base import DataModule, InMemory, split, val_count
from src.data.image_files import Part, find_images
from src.data.images import Decoder, OnDisk, cpus, decode_all, find_readable
from src.utils.errors import UserError

VALIDATION = ("val", "valid", "validation", "test")


class ImageFolder(DataModule):
    """PNG, JPEG, WebP, BMP and GIF files in any tree of folders, or in a zip file of one.

    Samples: (C, H, W) in [-1, 1]; labels count the sorted names of the top-level folders, `class_names`. Where these
    are `train` and one of `val`, `valid`, `validation`, `test`, they are the two parts of the data, with the classes
    below. A folder around everything is looked through. Images are decoded once into memory where they fit, by workers
    whenever they are needed otherwise; either way the batches are the same.

    Args:
        root: folder or zip file.
        val_root: another one for validation; by default, what is found in root, or else a share of it.
        val_share: that share, drawn by the seed.
        resize: `crop` fills the size and cuts off what is left over, evenly; `stretch` changes the proportions.
        flip: mirror training images left to right with probability one half.
        cache_gb: memory to spend on decoded images, in GB per process of training; 0 always decodes anew.
        max_unreadable: share of images that may be left out because they cannot be read.
        channels, size, num_classes, batch_size, num_workers, seed: see DataModule; channels is 1 or 3, size (H, W).
            num_classes is the number of class folders, or 0 to ignore them. num_workers 0 becomes the number of cores,
            at most 8, where images are not in memory.

    Raises:
        UserError: where there is nothing to read, too much is unreadable, or a setting does not fit the images.
    """

    def __init__(
        self,
        root: str | None,
        val_root: str | None = None,
        val_share: float = 0.05,
        resize: Literal["crop", "stretch"] = "crop",
        flip: bool = True,
        cache_gb: float = 2.0,
        max_unreadable: float = 0.01,
        channels: int = 3,
        size: Sequence[int] = (32, 32),
        num_classes: int = 0,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
    ):
        super().__init__(channels, size, num_classes, batch_size, num_workers, seed)
        if channels not in (1, 3):
            raise UserError(f"data.channels={channels} is no kind of image; use 1 for grey or 3 for colours")
        if len(self.size) != 2 or min(self.size) < 1:
            raise UserError(f"data.size={list(size)} is no size of an image; give height and width, such as [32,32]")
        if resize not in ("crop", "stretch"):
            raise UserError(f"data.resize={resize} is unknown; use crop or stretch")
        self.root, self.val_root, self.val_share = root, val_root, val_share
        self.flip, self.cache_gb, self.max_unreadable = flip, cache_gb, max_unreadable
        self.decoder = Decoder(channels, size, resize)
        self.class_names: list[str] = []

    def load(self) -> None:
        if self.root is None:
            raise UserError("data=image_folder needs data.root=FOLDER, a folder or a zip file with the images")
        train, val = self._parts(self.root)
        n = len(train.names) + len(val.names)
        gigabytes = n * self.channels * self.size[0] * self.size[1] / 1e9
        cached = gigabytes <= self.cache_gb
        if not cached and self.num_workers == 0:
            self.num_workers = min(cpus(), 8)
        train_set, bad = self._read(train, cached, self.flip)
        val_set, bad_val = self._read(val, cached, flip=False)
        self.warning = self._judge(bad + bad_val, n)
        self.source = (
            f"{len(train_set):,} train / {len(val_set):,} validation images from {self.root}"
            + (f" and {self.val_root}" if self.val_root else "")
            + f", {len(self.class_names)} class folders, "
            + (f"in memory ({gigabytes:.2g} GB)" if cached else f"decoded by {self.num_workers} workers")
        )
        self.train_set, self.val_set = train_set, val_set

    def _parts(self, root: str) -> tuple[Part, Part]:
        """What to train on, whose folders name the classes, and what to validate on."""
        files = find_images(Path(root).expanduser(), "data.root")
        train = everything = Part(files, files.names).unwrapped()
        tops = set(everything.folders())
        given = next((name for name in VALIDATION if name in tops), None) if "train" in tops else None
        if given:
            train = everything.below("train")
        self.class_names = sorted(set(train.folders()) - {""})
        self._check_classes()
        if self.val_root is not None:
            others = find_images(Path(self.val_root).expanduser(), "data.val_root")
            return train, self._shuffled(Part(others, others.names).unwrapped(keep=self.class_names))
        if given:
            return train, self._shuffled(everything.below(given))
        n = len(train.names)
        indices, val_indices = split(n, val_count(n, self.val_share), self.seed)
        return train.only(indices.tolist()), train.only(val_indices.tolist())

    def _shuffled(self, part: Part) -> Part:
        """The same images, mixed, so that any first few of them are of all classes."""
        n = len(part.names)
        return part.only(split(n, n, self.seed)[1].tolist())

    def _check_classes(self) -> None:
        found, asked = len(self.class_names), self.num_classes
        if asked and asked != found:
            some = ", ".join(self.class_names[:3]) + (", ..." if found > 3 else "")
            raise UserError(
                f"data.num_classes={asked}, but {self.root} has {found} class folders{f' ({some})' if found else ''}; "
                f"set data.num_classes={found}"
            )

    def _read(self, part: Part, cached: bool, flip: bool) -> tuple[InMemory, list[str]]:
        """The samples, and the complaints of the images that cannot be read."""
        label = self._labels(part) if self.num_classes else None
        images = OnDisk(part, self.decoder, self.shape)
        x, good, bad = decode_all(images) if cached else find_readable(images)
        return InMemory(x, None if label is None else label[good], flip, self.seed), bad

    def _labels(self, part: Part) -> Tensor:
        """The number (N,) int64 of each image's folder among the class folders."""
        number = {name: i for i, name in enumerate(self.class_names)}
        for name, folder in zip(part.names, part.folders(), strict=True):
            if folder not in number:
                raise UserError(
                    f"{name} lies in none of the class folders of {self.root}; move it, or set data.num_classes=0"
                )
        return torch.tensor([number[folder] for folder in part.folders()], dtype=torch.int64)

    def _judge(self, bad: Sequence[str], n: int) -> str | None:
        if not bad:
            return None
        complaint = (
            f"{len(bad):,} of {n:,} images cannot be read: {', '.join(bad[:5])}{', ...' if len(bad) > 5 else ''}"
        )
        if len(bad) > self.max_unreadable * n:
            raise UserError(f"{complaint}; mend or remove them, or raise data.max_unreadable={self.max_unreadable}")
        return f"{complaint}; they are left out"

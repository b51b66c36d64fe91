"""Data sets of the library datasets: pictures and arrays from the Hugging Face hub, Parquet files and folders."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from annotated_types import Interval

from src.data.array import ArrayData
from src.data.array_parts import ArrayParts
from src.data.array_rows import Layout
from src.data.array_samples import ArraySamples
from src.data.array_statistics import Normalize
from src.data.huggingface_splits import PictureSamples, Shaping, open_hub_parts
from src.data.samples import TensorSamples
from src.data.workers import cpus
from src.utils.errors import UserError, printable
from src.utils.ranges import Fraction, NonNegativeFloat, NonNegativeInt, OpenFraction, PositiveInt
from src.utils.units import Kind


class HuggingFace(ArrayData):
    """A map-style data set of `datasets`: one saved by `save_to_disk`, local files or folders, or a name on the hub.

    A column of pictures gives images in [0, 1], decoded under the same limits as image files; a column of arrays or
    lists gives samples as `ArrayData` does, normalized, in their own units. The order of the samples is drawn here,
    so that a run resumes with the very next batch. Shape, classes and units are found when a run begins.

    Args:
        path: folder written by `save_to_disk`; file or folder of Parquet, Arrow, CSV or JSON files, or of images; or a
            name on the hub, which is downloaded to the cache of Hugging Face.
        config: name of a configuration of the data set, if it has several.
        revision: commit, tag or branch of a data set on the hub.
        split, val_split, test_split: names of splits; by default those with the usual names. Without a validation
            split a fraction of the training samples takes its place, and without a test split the validation samples.
        val_fraction: that fraction, drawn by the seed.
        x: column of the samples; by default the only one of pictures, or one named image, x, array and so on.
        label: column of classes; by default one named label, or the only one of classes.
        vector: columns of numbers, for condition=vector.
        image: column of pictures or arrays that belong to the samples, for condition=image.
        text: column of texts, for condition=text.
        kind, layout, normalize, per_channel, units: of arrays, see ArrayData.
        resize: `crop` fills the size and crops the rest evenly; `stretch` changes the proportions of pictures.
        flip: mirror training pictures left to right with probability one half.
        cache_gb: samples are held in memory up to this size, in GB per training process, and else read on access.
        max_unreadable: largest fraction of unreadable pictures; up to it they are left out.
        streaming: must be False; a streamed set cannot be resumed exactly.
        vector_size, vector_names, image_shape, text_length: see DataModule; found in the data if None.
        channels, size, num_classes, batch_size, num_workers, seed: see DataModule; the first three are found in the
            data if None. Pictures are converted to the channels and the size that are given; num_classes=0 ignores the
            labels.

    Raises:
        UserError: if the data set cannot be opened or used, or a setting does not fit it.

    Source: Lhoest et al. 2021, arXiv:2109.02846 (datasets).
    """

    def __init__(
        self,
        path: str | None,
        config: str | None = None,
        revision: str | None = None,
        split: str | None = None,
        val_split: str | None = None,
        test_split: str | None = None,
        val_fraction: OpenFraction = 0.05,
        x: str | None = None,
        label: str | None = None,
        vector: str | Sequence[str] | None = None,
        image: str | None = None,
        text: str | None = None,
        kind: Kind | None = None,
        layout: Layout | None = None,
        normalize: Normalize = "standard",
        per_channel: bool = True,
        units: Mapping[str, Any] | None = None,
        resize: Literal["crop", "stretch"] = "crop",
        flip: bool = False,
        cache_gb: NonNegativeFloat = 2.0,
        max_unreadable: Fraction = 0.01,
        streaming: bool = False,
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
        if streaming:
            raise UserError(
                "data.streaming=true is not supported: a streamed set has no length and no random access, so that a "
                "run could neither shuffle it by (seed, epoch) nor resume bit for bit; download it, or save a part of "
                "it with save_to_disk"
            )
        self.splits = (config, revision, split, val_split, test_split)
        self.asked_shape = (channels, None if size is None else tuple(size))
        self.resize, self.flip, self.max_unreadable = resize, flip, max_unreadable
        self.opened: Any = None
        self.pictures: list[PictureSamples] = []
        super().__init__(
            path, val_fraction=val_fraction, key=x, kind=kind, layout=layout, label=label, vector=vector, image=image,
            text=text, normalize=normalize, per_channel=per_channel, cache_gb=cache_gb, units=units, channels=channels,
            size=size, num_classes=num_classes, vector_size=vector_size, vector_names=vector_names,
            image_shape=image_shape, text_length=text_length, batch_size=batch_size, num_workers=num_workers, seed=seed,
        )  # fmt: skip

    @classmethod
    def resolve(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Shape, classes, further fields, units and columns, found in the data."""
        if settings.get("path") is None:
            raise UserError("data.path is not set; set data.path=FOLDER, a Parquet file, or a name on the hub")
        data = cls(**settings)
        parts = data.parts()
        return data.found() | {"kind": data.kind, "x": parts.files[0].choice.key, "label": parts.files[0].choice.label}

    def parts(self) -> ArrayParts:
        """The opened splits, the part of each sample, and the statistics; opened once."""
        if self.root is None:
            raise UserError("data.path is not set; set data.path=FOLDER, a Parquet file, or a name on the hub")
        if self.opened is None:
            shaping, labeled = Shaping(*self.asked_shape, self.resize), self.stated["num_classes"] != 0
            self.opened = open_hub_parts(
                self.root, self.splits, self.choice, shaping, labeled, self.val_fraction, self.per_channel, self.seed
            )
            if getattr(self.opened.files[0], "pictures", None) is not None:
                if self.named_kind not in (None, "images"):
                    raise UserError(f"data.kind must be images for a column of pictures, got {self.named_kind}")
                self.named_kind = "images"
        return self.opened

    def prepare_data(self) -> None:
        """Download and prepare the data in one process, before the others read them."""
        self.parts()

    def load(self) -> None:
        super().load()
        pictures = [s for s in self.pictures if len(s)]
        for samples in [s for s in pictures if s.held is False]:
            samples.leave_out_unreadable()
        if pictures and not isinstance(self.train_set, TensorSamples) and self.num_workers == 0:
            self.num_workers = min(cpus(), 8)
        bad = [text for samples in pictures for text in samples.complaints]
        if bad:
            self.warn(self._judge(bad, sum(map(len, pictures)) + len(bad)))
        self.opened = None

    def read_more(self, root: str) -> None:
        """Read nothing: a folder or a file is read as pictures or an array, whatever the data set was."""

    def _samples(self, parts: ArrayParts, part: int, white: float) -> ArraySamples:
        found = super()._samples(parts, part, white)
        file: Any
        file, indices = parts.of(part)
        if file.pictures is None:
            return found
        flip = self.flip and part == 0
        self.pictures.append(PictureSamples(file, indices, self.units, found.fields, flip, self.seed))
        return self.pictures[-1]

    def _judge(self, bad: Sequence[str], n: int) -> str:
        """Say which pictures are left out; refuse too many."""
        found = f"{len(bad):,} of {n:,} pictures cannot be read: {', '.join(bad[:5])}{', ...' if len(bad) > 5 else ''}"
        if len(bad) > self.max_unreadable * n:
            raise UserError(f"{found}; repair or remove them, or raise data.max_unreadable={self.max_unreadable}")
        return printable(f"{found}; they are left out")

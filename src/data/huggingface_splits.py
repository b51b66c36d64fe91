"""The splits of a Hugging Face data set as parts of the data: samples, what is known of each, and statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from src.data import array_fields as known
from src.data.array_parts import ArrayParts
from src.data.array_rows import Rows, channel_axis
from src.data.array_samples import ArraySamples, Choice
from src.data.array_statistics import ChannelMoments, Statistics, measure
from src.data.huggingface_columns import (
    ArrayColumn,
    PictureArray,
    check_column,
    guess_label,
    guess_x,
    is_image_column,
    picture_array,
)
from src.data.huggingface_files import choose_splits, open_splits
from src.data.identity import digest
from src.data.image_files import Files
from src.data.images import decode_all, find_unreadable
from src.data.samples import Batch, TensorSamples, flip_some, split, to_unit_range, val_count
from src.utils.errors import UserError, printable

SOME = 1000  # rows whose contents identify the data
PARTS = ("train", "val", "test")
# Of pictures of 8 bits, whose units are known.
PIXELS = ChannelMoments(1, np.full(1, 127.5), np.ones(1), np.zeros(1), np.full(1, 255.0))


@dataclass(frozen=True)
class Shaping:
    """How pictures are converted: channels and size, None for those of the first, and `crop` or `stretch`."""

    channels: int | None
    size: tuple[int, ...] | None
    resize: Literal["crop", "stretch"]


class HubSplit:
    """The samples of a split, and what is known of each, as :class:`src.data.array_samples.Opened` has it.

    Args:
        dataset: the rows.
        choice: the columns, by name.
        shaping: of pictures.
        labeled: False to ignore labels.

    Attributes:
        rows: (N, C, *S).
        label, class_names: the classes; None without labels.
        vector, vector_names, text, image: the other fields; None without them.
    """

    label: Tensor | None = None
    class_names: list[str]
    vector: Tensor | None = None
    text: Tensor | None = None
    image: Rows | None = None

    def __init__(self, dataset: Any, choice: Choice, shaping: Shaping, labeled: bool):
        self.dataset, self.choice = dataset, choice
        key = check_column(dataset, str(choice.key), "data.x")
        self.pictures: PictureArray | None = None
        if is_image_column(dataset, key):
            self.pictures = picture_array(dataset, key, shaping.channels, shaping.size, shaping.resize)
            self.rows = Rows(self.pictures, 0)
        else:
            array = ArrayColumn(dataset, key, "data.x")
            self.rows = Rows(array, channel_axis(array.shape[1:], choice.kind, choice.layout))
        self.label, self.class_names = self._labels() if labeled and choice.label else (None, [])
        self.vector_names: list[str] = []
        self._read_fields()

    def _labels(self) -> tuple[Tensor, list[str]]:
        name, setting = str(self.choice.label), f"data.label={self.choice.label}"
        check_column(self.dataset, name, "data.label")
        values = self.dataset.with_format(None)[name][:]
        feature = self.dataset.features[name]
        if type(feature).__name__ != "ClassLabel":
            return known.read_labels(np.asarray(values), setting)
        if any(value is None or value < 0 for value in values):
            raise UserError(f"{setting}: some samples have no label; leave them out, or set data.num_classes=0")
        return torch.tensor(values), [printable(str(class_name)) for class_name in feature.names]

    def _read_fields(self) -> None:
        choice, data = self.choice, self.dataset
        for name, setting in ((choice.image, "data.image"), (choice.text, "data.text")):
            if name is not None:
                check_column(data, name, setting)
        if choice.vector:
            columns = [ArrayColumn(data, check_column(data, v, "data.vector"), "data.vector")[:] for v in choice.vector]
            self.vector, self.vector_names = known.read_vectors(columns, choice.vector, "data.vector")
        if choice.text is not None:
            values = np.asarray(data.with_format(None)[choice.text][:])
            self.text = known.read_texts(values, f"data.text={choice.text}")
        if choice.image is not None and is_image_column(data, choice.image):
            self.image = Rows(picture_array(data, choice.image, None, None, "crop", as_float=True), 0)
        elif choice.image is not None:
            self.image = known.paired_rows(ArrayColumn(data, choice.image, "data.image"), f"data.image={choice.image}")

    def fields(self) -> dict[str, Any]:
        """The fields of a batch, by name."""
        found = {"label": self.label, "vector": self.vector, "text": self.text, "image": self.image}
        return {name: value for name, value in found.items() if value is not None}


@dataclass
class HubParts(ArrayParts):
    """The splits of a data set that are used; `of_part` has the split of each part of the data."""

    of_part: Mapping[int, int] = field(default_factory=dict)

    def of(self, part: int) -> tuple[Any, np.ndarray]:
        i = self.of_part.get(part, 0)
        return self.files[i], np.flatnonzero(self.part[i] == part)

    def identity(self) -> str:
        """A hash of the columns, their fields, and the contents of some rows, evenly spaced."""
        found: list[Any] = []
        for file, part in zip(self.files, self.part, strict=True):
            chosen = np.unique(np.linspace(0, len(part) - 1, min(len(part), SOME)).astype(int))
            found += [f"{file.rows.shape} {file.choice.key}", torch.from_numpy(part)]
            pictures = getattr(file, "pictures", None)
            if pictures is None:
                found.append(torch.from_numpy(np.ascontiguousarray(file.rows[chosen])))
            else:
                found += [digest(str(pictures.column.content(i))) for i in chosen.tolist()]
            found += [v for v in file.fields().values() if isinstance(v, Tensor)]
        return digest(*found)


def open_hub_parts(
    path: str,
    named: tuple[str | None, ...],
    choice: Choice,
    shaping: Shaping,
    labeled: bool,
    val_fraction: float,
    per_channel: bool,
    seed: int,
) -> HubParts:
    """Open the splits of a data set, choose its columns, divide and measure its samples.

    Raises:
        UserError: if they cannot be used, or do not fit each other.
    """
    config, revision, *wanted = named
    splits = open_splits(path, config, revision)
    chosen = choose_splits(splits, *wanted)
    train = splits[str(chosen["train"])]
    choice = with_columns(train, choice, labeled)
    files: list[Any] = [HubSplit(train, choice, shaping, labeled)]
    shaping = replace(shaping, channels=files[0].rows.shape[1], size=files[0].rows.shape[2:])
    n = len(train)
    parts = [np.zeros(n, np.uint8)]
    of_part = {0: 0}
    for number, name in ((1, chosen["val"]), (2, chosen["test"])):
        if name is not None:
            of_part[number] = len(files)
            files.append(HubSplit(splits[name], choice, shaping, labeled))
            parts.append(np.full(len(splits[name]), number, np.uint8))
            check_columns(files[0], files[-1], name)
    if chosen["val"] is None:
        parts[0][split(n, val_count(n, val_fraction), seed)[1].numpy()] = 1
    statistics = Statistics(PIXELS, PIXELS, 1.0)
    if files[0].pictures is None:
        statistics = measure(files[0].rows, parts[0], per_channel, f"data.path={path}")
        if chosen["val"] is not None:
            i = of_part[1]
            statistics.val = measure(files[i].rows, parts[i], per_channel, f"data.val_split={chosen['val']}").val
    return HubParts(files, parts, statistics, of_part)


def with_columns(train: Any, choice: Choice, labeled: bool) -> Choice:
    """The choice, completed by columns with the usual names."""
    key = choice.key or guess_x(train)
    label = (choice.label or guess_label(train)) if labeled else None
    return replace(choice, key=key, label=None if label == key else label)


def check_columns(train: HubSplit, other: HubSplit, name: str) -> None:
    """Check that a split has the shape of the training split, and give it its classes and its length of texts."""
    if other.rows.shape[1:] != train.rows.shape[1:]:
        raise UserError(
            f"the split {printable(name)} must hold samples of shape {train.rows.shape[1:]}, as the training split, "
            f"got {other.rows.shape[1:]}"
        )
    if train.label is not None and other.label is not None and other.class_names != train.class_names:
        if unknown := sorted(set(other.class_names) - set(train.class_names)):
            raise UserError(
                f"the split {printable(name)} has classes that no training sample has, such as {unknown[0]}"
            )
        other.label = torch.tensor([train.class_names.index(c) for c in other.class_names])[other.label]
    if train.text is not None and other.text is not None:
        length = max(train.text.shape[1], other.text.shape[1])
        train.text, other.text = (
            torch.nn.functional.pad(v, (0, length - v.shape[1]), value=-1) for v in (train.text, other.text)
        )


class PictureSamples(ArraySamples):
    """Some pictures of a column, decoded on access, in [-1, 1].

    Args:
        file: the split.
        indices: (n,) which rows.
        units: those of images.
        fields: further fields of a batch, by name.
        flip: True for random horizontal flips, different in each epoch.
        seed: seed of the flips.

    Attributes:
        complaints: the errors of unreadable pictures, once they were decoded.
    """

    def __init__(self, file: HubSplit, indices: np.ndarray, units: Any, fields: dict[str, Any], flip: bool, seed: int):
        super().__init__(file.rows, indices, units, 255.0, fields)
        assert file.pictures is not None
        self.pictures, self.flip, self.seed = file.pictures, flip, seed
        self.complaints: Sequence[str] = []
        self.held = False

    def __getitem__(self, where: tuple[int, Tensor]) -> Batch:
        batch = super().__getitem__(where)
        if self.flip:
            batch["x"] = flip_some(batch["x"], *where, len(self), self.seed)
        return batch

    def normalized(self, there: np.ndarray) -> Tensor:
        return to_unit_range(torch.from_numpy(self.rows[there]))

    def in_memory(self) -> TensorSamples:
        """The readable pictures, all decoded."""
        self.held = True
        x, good, self.complaints = decode_all(self.pictures.on_disk(self.indices))
        self.indices = self.indices[good.numpy()]
        return TensorSamples(x, None, self.flip, self.seed, {name: self.field(name) for name in self.fields})

    def leave_out_unreadable(self) -> None:
        """Look at the header of each picture, and leave out those that are none."""
        found = find_unreadable(cast(Files, self.pictures.column.only(self.indices)))
        self.complaints = list(found.values())
        self.indices = np.delete(self.indices, list(found))

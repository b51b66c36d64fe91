"""An opened file of arrays: its samples, what is known of each, and their parts of the data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from src.data import array_fields as known
from src.data.array_files import ArrayFile
from src.data.array_rows import FileRows, Layout, Rows, Separate, Windows, channel_axis
from src.data.samples import Batch, TensorSamples
from src.utils.errors import UserError
from src.utils.units import Kind, Units

GUESSED = ("x", "data", "samples", "images", "signals", "fields", "volumes", "inputs", "features", "arr_0")
CHUNK = 1 << 26  # bytes converted at a time


@dataclass(frozen=True)
class Choice:
    """What is taken of a file, and how its axes are read; see `ArrayData` for the settings of the same names."""

    key: str | tuple[str, ...] | None = None
    kind: Kind | None = None
    layout: Layout | None = None
    id: str | None = None
    window: int | None = None
    stride: int | None = None
    label: str | None = None
    vector: tuple[str, ...] = ()
    image: str | None = None
    text: str | None = None
    group: str | None = None
    split: str | None = None

    @property
    def taken(self) -> set[str | None]:
        """The columns that are not part of x unless they are named so."""
        return {self.id, self.label, *self.vector, self.image, self.text, self.group, self.split}


class Opened:
    """The samples of a file, and what is known of each.

    Attributes:
        rows: (N, C, *S).
        file: the file.
        label, class_names: the classes; None without labels.
        vector, vector_names, text, image: the other fields; None without them.
        group, split: group and part of each sample; None if there are none.
        windows: the windows that the samples are; None if they are none.
    """

    label: Tensor | None = None
    vector: Tensor | None = None
    text: Tensor | None = None
    image: Rows | None = None
    group: np.ndarray | None = None
    split: np.ndarray | None = None
    windows: Windows | None = None

    def __init__(self, file: ArrayFile, choice: Choice):
        self.file, self.choice = file, choice
        self.class_names: list[str] = []
        self.vector_names: list[str] = []
        self.first_rows: np.ndarray | None = None  # of each recording, in a table in long form
        array, layout = self._array(), choice.layout
        if choice.id is not None:
            array, layout = self._long_form(array), "channels_last"
        if choice.window is not None:
            array = self.windows = self._windows(array, layout)
            layout = "channels_first"
        elif isinstance(array, list):
            if len(lengths := {len(part) for part in array}) > 1:
                raise UserError(
                    f"data.id={choice.id}: the recordings have {min(lengths)} to {max(lengths)} rows; give them one "
                    "length, or set data.window to take windows of them"
                )
            array = np.stack(array)
        shape = tuple(array.shape[1:])
        kind = "signals" if choice.window is not None or choice.id is not None else choice.kind
        self.rows = Rows(array, channel_axis(shape, kind, layout))
        if self.rows.dtype.kind not in "fiub":
            raise UserError(f"data.root={file.path} must hold numbers, got {self.rows.dtype}; convert them to floats")
        self._read_fields()

    # ---- x ----

    def _array(self) -> Any:
        """The array of the samples: the one named, guessed by its name, or all columns of numbers."""
        file, key, arrays = self.file, self.choice.key, self.file.arrays
        if isinstance(key, tuple):
            return np.stack([np.asarray(file.get(name, f"data.key={name}")) for name in key], 1)
        if key is not None:
            return file.get(key, f"data.key={key}")
        taken = self.choice.taken | ({self.guessed_label()} if self.choice.label is None else set())
        free = {name: v for name, v in arrays.items() if name not in taken}
        if file.tabular:
            numbers = [v for v in free.values() if v.dtype.kind in "fiub"]
            if not numbers:
                raise UserError(f"data.root={file.path} has no column of numbers; name the columns by data.key=[a,b]")
            return np.concatenate([v.reshape(len(v), -1) for v in numbers], 1)
        name = next((name for name in free if name.lower().rpartition("/")[2] in GUESSED), None)
        free = {name: v for name, v in free.items() if np.dtype(v.dtype).kind in "fiub"}
        if name is None and len(free) == 1:
            (name,) = free
        if name is None:
            raise UserError(f"data.root={file.path} holds {', '.join(arrays)}; name the samples by data.key=NAME")
        return arrays[name]

    def guessed_label(self) -> str | None:
        """The name of an array of whole numbers or names that is called as labels are; None if there is none."""
        for name, array in self.file.arrays.items():
            named = name.lower().rpartition("/")[2] in known.LABELS
            if named and len(array.shape) == 1 and array.dtype.kind in "iuUTb" and known.are_classes(array[:]):
                return name
        return None

    def _long_form(self, array: np.ndarray) -> list[np.ndarray]:
        """The recordings (T, C) of a table of which each row is a moment, in the order in which they begin."""
        identity = np.asarray(self.file.get(str(self.choice.id), f"data.id={self.choice.id}"))
        _, first, index = np.unique(identity, return_index=True, return_inverse=True)
        order = np.argsort(first, kind="stable")
        self.first_rows = first[order]
        by_recording = np.argsort(index.reshape(-1), kind="stable")
        parts = np.split(array[by_recording], np.cumsum(np.bincount(index.reshape(-1)))[:-1])
        return [parts[i] for i in order]

    def _windows(self, array: Any, layout: Layout | None) -> Windows:
        """Windows of the recordings that an array holds, or of the one that it is."""
        window = int(self.choice.window or 0)
        recordings: Any
        if isinstance(array, list):
            recordings, shapes = Separate(ListOf(array), False), [part.shape for part in array]
        elif isinstance(array, FileRows):
            recordings, shapes = array, array.shapes
        else:
            axes = len(array.shape)
            single = axes == 1 or (axes == 2 and (layout in ("channels_first", "channels_last") or self.file.tabular))
            single = single or (axes == 2 and array.shape[1] < window)  # (T, C)
            recordings, shapes = Separate(array, single), [array.shape] if single else [array.shape[1:]] * len(array)
        if not 1 <= len(shapes[0]) <= 2:
            raise UserError(f"data.window is for signals, got recordings of shape {shapes[0]}; leave it out")
        if layout in (None, "no_channels"):
            layout = "channels_last" if len(shapes[0]) == 2 and shapes[0][0] > shapes[0][1] else "channels_first"
        time = 0 if layout == "channels_last" else -1
        if len(shapes[0]) == 1:
            layout, time = "channels_first", 0
        channels = {
            shape[1 - time] if len(shape) == 2 and time == 0 else shape[0] for shape in shapes if len(shape) == 2
        }
        if len(channels) > 1:
            raise UserError(f"the recordings must have one number of channels, got {sorted(channels)}")
        return Windows(recordings, [shape[time] for shape in shapes], layout, window, self.choice.stride or window)

    # ---- fields ----

    def _read_fields(self) -> None:
        choice = self.choice
        label = choice.label or self.guessed_label()
        if label is not None:
            setting = f"data.label={label}"
            found, self.class_names = known.read_labels(self._of_samples(label, setting), setting)
            self.label = found
        if choice.vector:
            columns = [self._of_samples(name, f"data.vector={name}") for name in choice.vector]
            self.vector, self.vector_names = known.read_vectors(columns, choice.vector, "data.vector")
        if choice.text is not None:
            setting = f"data.text={choice.text}"
            self.text = known.read_texts(self._of_samples(choice.text, setting), setting)
        if choice.image is not None:
            if self.windows is not None or self.first_rows is not None:
                raise UserError("data.image cannot be combined with data.window or data.id; cut the samples first")
            setting = f"data.image={choice.image}"
            values = known.column(self.file, choice.image, setting)
            self.image = known.paired_rows(known.check_rows(values, len(self.rows), setting), setting)
        if choice.split is not None:
            setting = f"data.split={choice.split}"
            self.split = known.parts_from_names(self._of_samples(choice.split, setting), setting)
        if choice.group is not None:
            self.group = np.asarray(self._of_samples(choice.group, f"data.group={choice.group}"))
        elif self.windows is not None and len(np.unique(self.windows.recording)) > 1:
            self.group = self.windows.recording

    def _of_samples(self, name: str, setting: str) -> np.ndarray:
        """The values of a column for each sample; those of a recording for each of its windows."""
        values = known.column(self.file, name, setting)
        if self.first_rows is not None and len(values) != len(self.first_rows):
            values = np.asarray(values)[self.first_rows]
        n = len(self.rows) if self.windows is None else int(self.windows.recording.max()) + 1
        values = np.asarray(known.check_rows(values, n, setting))
        return values if self.windows is None else values[self.windows.recording]

    def fields(self) -> dict[str, Any]:
        """The fields of a batch, by name."""
        found = {"label": self.label, "vector": self.vector, "text": self.text, "image": self.image}
        return {name: value for name, value in found.items() if value is not None}


class ListOf:
    """Arrays of one type in a list."""

    def __init__(self, arrays: Sequence[np.ndarray]):
        self.arrays, self.dtype = arrays, arrays[0].dtype

    def __getitem__(self, i: int) -> np.ndarray:
        return self.arrays[i]


class ArraySamples(Dataset):
    """Some samples of an array in the units of the model, read on access.

    Args:
        rows: (N, C, *S).
        indices: (n,) which of them.
        units: their units.
        white: value of the array that is 1 in these units.
        fields: further fields of a batch, by name, (N, ...).
    """

    def __init__(self, rows: Rows, indices: np.ndarray, units: Units, white: float, fields: dict[str, Any]):
        self.rows, self.indices, self.units, self.white, self.fields = rows, indices, units, white, fields

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, where: tuple[int, Tensor]) -> Batch:
        _, chosen = where
        there = self.indices[chosen.numpy()]
        batch = {"x": self.normalized(there)}
        for name, values in self.fields.items():
            if isinstance(values, Rows):
                batch[name] = torch.from_numpy(np.ascontiguousarray(values[there], dtype=np.float32))
            else:
                batch[name] = values[torch.from_numpy(there)]
        return batch

    def normalized(self, there: np.ndarray) -> Tensor:
        """The samples at indices (B,) of the array, in the units of the model."""
        x = self.rows[there].astype(np.float64) / self.white
        return self.units.to_model(torch.from_numpy(x)).float()

    def in_memory(self) -> TensorSamples:
        """The same samples, all converted."""
        n = max(1, CHUNK // max(1, 8 * int(np.prod(self.rows.shape[1:]))))
        x = torch.empty(len(self), *self.rows.shape[1:])
        for first in range(0, len(self), n):
            x[first : first + n] = self.normalized(self.indices[first : first + n])
        return TensorSamples(x, fields={name: self.field(name) for name in self.fields})

    def field(self, name: str) -> Tensor:
        """A field of all these samples."""
        values = self.fields[name]
        if isinstance(values, Rows):
            return torch.from_numpy(np.ascontiguousarray(values[self.indices], dtype=np.float32))
        return values[torch.from_numpy(self.indices)]

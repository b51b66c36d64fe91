"""The conditions that `condition.NAME=`, `condition=FILE` and `condition=test` ask for."""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from src.commands.cli import to_container
from src.commands.inputs import load_data
from src.diffusion.conditions import Cond, Condition, Image, Measured
from src.runs.run import Run
from src.utils.errors import UserError, config_errors
from src.utils.files import read_arrays, read_rows
from src.utils.sample_files import read_samples
from src.utils.units import Kind, Units, kind_of

TABLES = (".csv", ".npz")


class ConditionRequest:
    """The conditions that a command line asks for.

    Args:
        cfg: the settings of the command: `condition` holds values by name, or a file or `test` as `rows`; `label` is
            short for `condition.label`.
        class_names: names of the classes of the run, which stand for their numbers.

    Attributes:
        rows: a file with a row for each sample, or test; None without.
        given: values by name.

    Raises:
        UserError: if a condition is given twice.
    """

    def __init__(self, cfg: DictConfig, class_names: Sequence[str] = ()):
        self.class_names = class_names
        self.given: dict[str, Any] = dict(to_container(cfg).get("condition") or {})
        self.rows = self.given.pop("rows", None)
        if cfg.label is not None and (self.rows is not None or "label" in self.given):
            raise UserError(f"label={cfg.label} and condition= both give labels; leave one out")
        if self.rows is not None and self.given:
            raise UserError(
                f"condition={self.rows} gives all conditions; leave condition.{next(iter(self.given))}= out"
            )
        if cfg.label is not None:
            self.given["label"] = to_container(cfg).get("label")
        if "label" in self.given:
            self.given["label"] = class_numbers(self.given["label"], class_names, "label")

    @classmethod
    def of(cls, given: Mapping[str, Any], class_names: Sequence[str] = ()) -> "ConditionRequest":
        """The conditions of these values by name, in which nothing is interpolated."""
        request = cls(OmegaConf.create({"condition": {}, "label": None}), class_names)
        request.given = dict(given)
        if "label" in request.given:
            request.given["label"] = class_numbers(request.given["label"], class_names, "label")
        return request

    def __bool__(self) -> bool:
        return self.rows is not None or bool(self.given)

    @property
    def is_test(self) -> bool:
        """True for the conditions of the test data."""
        return self.rows == "test"

    def conditions(self, condition: Condition, trained: DictConfig, kind: Kind, units: Units, n: int) -> Cond | None:
        """The conditions of n samples, repeated in turn if fewer are given; of several those not given are withheld.

        Args:
            condition: the condition of the run, with its statistics.
            trained: the config of the run.
            kind, units: of the data of the run.
            n: number of samples.

        Raises:
            UserError: for a condition that the run was not trained with, and a value that is none of it.
        """
        if self.is_test:
            return test_conditions(condition, trained, n)
        names = {name: Path(value) for name, value in self.given.items() if is_file(condition, name, value)}
        try:
            condition.known(self.given)
            files = {name: read_image(condition.members[name], path, kind, units) for name, path in names.items()}
            return condition.request(self.given | files, n)
        except ValueError as error:
            raise UserError(f"condition.{error}") from error

    def read_table(self, condition: Condition, entries: list[str]) -> int:
        """Read the file with a row for each sample, if there is one, as values by name; returns the number of rows.

        Args:
            condition: the condition of the run.
            entries: names of the numbers of a vector, which may head the columns of a CSV file.

        Raises:
            UserError: if it cannot be read, or is no table of conditions of the run.
        """
        path = Path(str(self.rows))
        if path.suffix.lower() not in TABLES:
            raise UserError(f"condition={path} must be test, or a .csv or .npz file with a row for each sample")
        if not path.is_file():
            raise UserError(f"condition={path} does not exist; give a .csv or .npz file with a row for each sample")
        read = npz_arrays if path.suffix.lower() == ".npz" else csv_columns
        with config_errors(f"condition={path}", (ValueError,)):
            self.given = read(path, condition, entries, self.class_names)
            if "label" in self.given:
                self.given["label"] = class_numbers(self.given["label"], self.class_names, f"condition={path}: label")
            counts = {name: len(value) for name, value in self.given.items()}
            if not counts or len(set(counts.values())) != 1 or not all(counts.values()):
                raise ValueError(f"must hold a row for each sample, as many for each condition, got {counts or 'none'}")
        return next(iter(counts.values()))


def class_numbers(value: Any, names: Sequence[str], key: str) -> Any:
    """A label or several, with names of classes replaced by their numbers; unchanged if no names are known.

    Raises:
        UserError: for a name that no class has, with the nearest.
    """
    if isinstance(value, list):
        return [class_numbers(one, names, key) for one in value]
    if not isinstance(value, str) or not names:
        return value
    if value in names:
        return list(names).index(value)
    near = get_close_matches(value, names, n=1, cutoff=0) or names[:1]
    some = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    raise UserError(f"{key}={value} is no class of this run; did you mean {near[0]}? The classes: {some}")


def is_file(condition: Condition, name: str, value: Any) -> bool:
    """True for the name of a file with an image, as the value of a condition that is one."""
    return isinstance(value, str) and isinstance(condition.members.get(name), Image)


def read_image(condition: Condition, path: Path, kind: Kind, units: Units) -> Tensor:
    """The images of a file or folder as conditions; those measured from a sample may be given as the sample itself.

    Raises:
        UserError: if it cannot be read.
        ValueError: if it has another shape.
    """
    key, axes = f"condition.{condition.name}", len(condition.null(1).shape) - 2  # type: ignore[union-attr]
    as_kind: Kind = "images" if kind == "images" else kind_of(axes)
    is_picture = path.suffix.lower() not in (".npy", ".npz")
    return image_condition(condition, lambda shape, of: read_samples(path, shape, key, as_kind, of), is_picture, units)


def image_condition(
    condition: Condition, read: Callable[[tuple[int, ...], Units], Tensor], is_picture: bool, units: Units
) -> Tensor:
    """Images as conditions; those measured from a sample may be given as the sample itself.

    Args:
        condition: the condition of the images.
        read: gives them in the channels of a shape (C, *S), and in the units of the model, from others.
        is_picture: True if they have the channels that are asked for.
        units: of the data.
    """
    assert isinstance(condition, Image)
    shape = tuple(condition.null(1).shape[1:])
    if not isinstance(condition, Measured):
        return read(shape, Units())
    whole = condition.sample_shape
    y = read(whole if is_picture and whole[0] != shape[0] else shape, units)  # a picture, in as many channels as it has
    if y.shape[1:] == whole:
        return condition.measure(y)
    return y if condition.in_data_units else read(shape, Units())


def test_conditions(condition: Condition, trained: DictConfig, n: int) -> Cond | None:
    """The conditions of the test data of a run, repeated in turn."""
    data = load_data(trained.data, Run(trained.paths.run)).test_set
    return condition(data[0, torch.arange(n) % len(data)])


def npz_arrays(path: Path, condition: Condition, entries: list[str], class_names: Sequence[str]) -> dict[str, Any]:
    """The arrays of a .npz file that have the name of a condition."""
    arrays = read_arrays(path, {}, "Give another file")
    found = {name: arrays[name] for name in condition.members if name in arrays}
    if not found:
        wanted = " or ".join(condition.members) or "no condition, since the run was trained without"
        raise ValueError(f"must hold an array named {wanted}, got {', '.join(arrays) or 'none'}")
    return {
        name: values.tolist() if values.dtype.kind in "US" else checked(name, values) for name, values in found.items()
    }


def checked(name: str, values: np.ndarray) -> Tensor:
    """An array of numbers as a tensor."""
    if values.dtype.kind not in "fiub" or values.ndim < 1:
        raise ValueError(f"{name} must be numbers, a row for each sample, got {values.dtype} of shape {values.shape}")
    return torch.from_numpy(values)


def csv_columns(path: Path, condition: Condition, entries: list[str], class_names: Sequence[str]) -> dict[str, Any]:
    """The columns of a .csv file: NAME, or for a vector NAME.0, NAME.1 and so on, or the names of its numbers."""
    head, *rows = [row for row in read_rows(path, "Give another file") if row] or [[]]
    if any(len(row) != len(head) for row in rows):
        wrong = next(i for i, row in enumerate(rows, 2) if len(row) != len(head))
        raise ValueError(f"row {wrong} must have {len(head)} columns, as the first has, got {len(rows[wrong - 2])}")
    columns: dict[str, dict[int, list[str]]] = {}
    for place, title in enumerate(head):
        name, _, index = title.strip().partition(".")
        if title.strip() in entries and "vector" in condition.members:
            name, index = "vector", str(entries.index(title.strip()))
        if name not in condition.members or not (index or "0").isdigit():
            there = ", ".join(condition.members) or "none"
            raise ValueError(f"{title.strip() or 'an empty title'} is no condition of this run; it has {there}")
        columns.setdefault(name, {})[int(index or 0)] = [row[place].strip() for row in rows]
    return {
        name: read_column(path, name, condition.members[name], parts, class_names) for name, parts in columns.items()
    }


def read_column(
    path: Path, name: str, condition: Condition, parts: dict[int, list[str]], class_names: Sequence[str]
) -> Any:
    """The values of a condition from its columns: numbers, texts, names of classes, or images beside the file."""
    if isinstance(condition, Image):
        raise ValueError(f"{name} is an image: give condition.{name}=FOLDER, or a .npz file")
    one = condition.null(1)
    if not isinstance(one, Tensor) or (not one.is_floating_point() and one.ndim > 1):  # a text
        return parts[0]
    if condition.num_classes and class_names and not all(map(reads_as_number, parts[0])):
        return parts[0]
    if sorted(parts) != list(range(len(parts))):
        raise ValueError(f"{name} must have the columns {name}.0 to {name}.{len(parts) - 1}, got {sorted(parts)}")
    columns = [[number(text, name, row) for row, text in enumerate(parts[i], 2)] for i in range(len(parts))]
    return (
        torch.tensor(columns, dtype=torch.float64).T if one.ndim > 1 else torch.tensor(columns[0], dtype=torch.float64)
    )


def reads_as_number(text: str) -> bool:
    """True for a text that stands for a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def number(text: str, name: str, row: int) -> float:
    """A number in a row."""
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{name} in row {row} must be a number, got {text or 'nothing'}") from error

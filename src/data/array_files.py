"""Files of arrays: NumPy, PyTorch, HDF5, CSV and Parquet files, and folders of recordings or samples."""

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from src.data.array_rows import FileRows
from src.utils.budget import check_expansion
from src.utils.errors import UserError, printable
from src.utils.images import is_hidden

OBJECTS = "holds Python objects, which are never loaded since they may run code; save plain numbers"
RECORDINGS = (".npy", ".wav")
MAGIC = b"\x93NUMPY"


@dataclass
class ArrayFile:
    """The arrays of a file or a folder, each with a row for each sample, in memory or on disk.

    Attributes:
        path: the file or folder.
        arrays: the arrays by name; columns of a table are one-dimensional.
        tabular: True if each array is a column of a table.
        files: relative paths of the files of a folder, which are its rows.
    """

    path: Path
    arrays: Mapping[str, Any]
    tabular: bool = False
    files: Sequence[str] = field(default_factory=list)

    def get(self, name: str, setting: str) -> Any:
        """The array of a name.

        Raises:
            UserError: if there is none; it names the setting that asked for it.
        """
        if name not in self.arrays:
            there = ", ".join([printable(name) for name in self.arrays][:20]) or "nothing"
            kind = "column" if self.tabular else "array"
            raise UserError(f"{setting}: {self.path} has no such {kind}. It has: {there}")
        return self.arrays[name]


def open_arrays(path: Path, setting: str) -> ArrayFile:
    """Open a file or a folder of arrays.

    Args:
        path: the file or folder; its ending says the format.
        setting: the setting that names it, for messages.

    Raises:
        UserError: if it does not exist, has another format, or is damaged.
    """
    if not path.exists():
        raise UserError(f"{setting}={path} does not exist; give a file ({', '.join(READERS)}) or a folder")
    reader = read_folder if path.is_dir() else READERS.get(path.suffix.lower())
    if reader is None or not (path.is_dir() or path.is_file()):
        raise UserError(
            f"{setting}={path} must be a file of arrays, {', '.join(READERS)}, or a folder of {' or '.join(RECORDINGS)}"
        )
    try:
        return reader(path)
    except UserError as error:
        raise UserError(f"{setting}={path} {error}") from error
    except Exception as error:  # damaged files raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{setting}={path} cannot be read ({reason}); give another file") from error


def read_npy(path: Path) -> ArrayFile:
    """The array of a .npy file, mapped into memory."""
    return ArrayFile(path, {"x": load_npy(path)})


def load_npy(path: Path) -> np.ndarray:
    """Map the array of a .npy file into memory."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise UserError("is no .npy file, or damaged; save the array again")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except ValueError as error:
        if "object" in str(error).lower() or "pickle" in str(error).lower():
            raise UserError(OBJECTS) from error
        raise


def read_npz(path: Path) -> ArrayFile:
    """The arrays of a .npz file, in memory."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            check_expansion(member.compress_size, member.file_size, f"holds {member.filename}, which")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return ArrayFile(path, {name: archive[name] for name in archive.files})
    except ValueError as error:
        raise UserError(OBJECTS) if "object" in str(error).lower() else error from error


def read_pt(path: Path) -> ArrayFile:
    """The tensors of a file of torch.save: one, a list, or a dict of them."""
    import pickle

    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            raise UserError(OBJECTS.replace("numbers", "tensors")) from error
        found = torch.load(path, map_location="cpu", weights_only=True)  # of before torch 1.6, which cannot be mapped
    if isinstance(found, torch.Tensor):
        found = {"x": found}
    elif isinstance(found, list | tuple):
        found = dict(zip(["x", "label", *map(str, range(2, len(found)))], found, strict=False))
    tensors = {str(name): v for name, v in found.items() if isinstance(v, torch.Tensor) and v.ndim}
    if not tensors:
        raise UserError("holds no tensors; save a tensor, or a dict of tensors")
    return ArrayFile(
        path, {name: (v.float() if v.dtype == torch.bfloat16 else v).numpy() for name, v in tensors.items()}
    )


def read_hdf5(path: Path) -> ArrayFile:
    """The data sets of an HDF5 file, by their paths in it, read on access."""
    h5py = imported("h5py", "HDF5 files")
    file, found = h5py.File(path, "r"), dict[str, Any]()

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.shape:
            texts = h5py.check_string_dtype(node.dtype)
            text = np.array(node.asstr(errors="surrogateescape")[:].tolist()) if texts else None
            found[name] = HDF5Array(path, name, node) if text is None else text

    file.visititems(visit)
    return ArrayFile(path, found)


class HDF5Array:
    """An array in an HDF5 file, read on access; each process opens the file itself, since none may share it open."""

    def __init__(self, path: Path, name: str, node: Any):
        self.path, self.name, self.node, self.process = path.absolute(), name, node, os.getpid()
        self.shape, self.dtype, self.ndim = node.shape, node.dtype, node.ndim

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, index: Any) -> np.ndarray:
        if self.process != os.getpid():
            self.node, self.process = imported("h5py", "HDF5 files").File(self.path, "r")[self.name], os.getpid()
        return self.node[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"node": None, "process": None}


def read_table(path: Path) -> ArrayFile:
    """The columns of a CSV or Parquet file, in memory."""
    pyarrow = imported("pyarrow", "CSV and Parquet files")
    if path.suffix.lower() in (".parquet", ".pq"):
        from pyarrow import parquet

        table = parquet.read_table(path)
    else:
        from pyarrow import csv

        try:
            table = csv.read_csv(path, parse_options=csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ","))
        except pyarrow.ArrowInvalid as error:
            if "UTF8" in str(error):
                raise UserError("is not UTF-8; convert it, as with iconv -f latin1 -t utf8") from error
            raise
    names = table.column_names
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UserError(f"has several columns named {twice[0]}; rename them")
    return ArrayFile(path, {name: as_array(table.column(name), name) for name in names}, tabular=True)


def as_array(column: Any, name: str) -> np.ndarray:
    """A column as an array (N,), or (N, L) for lists of equal lengths; missing numbers are NaN."""
    from pyarrow import types

    column = column.combine_chunks()
    if types.is_list(column.type) or types.is_large_list(column.type) or types.is_fixed_size_list(column.type):
        rows = len(column)
        flat = column.flatten().to_numpy(zero_copy_only=False)
        lengths = {len(item) for item in column}
        if len(lengths) != 1:
            raise UserError(f"has a column {name} of lists of different lengths; give them one length")
        return flat.reshape(rows, -1)
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_binary(column.type):  # which a CSV file has where a text is no UTF-8
        try:
            return np.array([(item.as_py() or b"").decode() for item in column])
        except UnicodeDecodeError as error:
            raise UserError(
                f"has a column {printable(name)} that is not UTF-8; convert it, as with iconv -f latin1 -t utf8"
            ) from error
    if types.is_string(column.type) or types.is_large_string(column.type):
        return np.array([item.as_py() or "" for item in column])
    found: np.ndarray = column.to_numpy(zero_copy_only=False)
    return found


def read_folder(path: Path) -> ArrayFile:
    """The files of a folder and its subfolders as rows, in the order of their names; `folder` and `file` name them."""
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in RECORDINGS and file.is_file())
    found = [file for file in found if not any(map(is_hidden, file.relative_to(path).parts))]
    endings = {file.suffix.lower() for file in found}
    if len(endings) != 1:
        names = " and ".join(RECORDINGS)
        raise UserError(f"must hold files of one kind, {' or '.join(RECORDINGS)}, got {'none' if not found else names}")
    load = load_npy if endings == {".npy"} else load_wav
    relative = [file.relative_to(path).as_posix() for file in found]
    arrays = {
        "x": FileRows(found, load, path),
        "folder": np.array([str(Path(name).parent) for name in relative]),
        "file": np.array(relative),
    }
    return ArrayFile(path, arrays, files=relative)


def load_wav(path: Path) -> np.ndarray:
    """The samples of a .wav file (T,) or (T, C), mapped into memory where possible."""
    from scipy.io import wavfile

    return wavfile.read(path, mmap=True)[1]  # type: ignore[no-any-return]


def imported(name: str, what: str) -> Any:
    """A library of the extra `arrays`.

    Raises:
        UserError: if it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"needs {name}, as {what} do; pip install 'diffusion-lab[arrays]'") from error


READERS: dict[str, Callable[[Path], ArrayFile]] = {
    ".npy": read_npy, ".npz": read_npz, ".pt": read_pt, ".pth": read_pt,
    ".csv": read_table, ".tsv": read_table, ".parquet": read_table, ".pq": read_table,
    ".h5": read_hdf5, ".hdf5": read_hdf5,
}  # fmt: skip

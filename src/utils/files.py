"""Files that the project wrote, read again: a damaged one is named in one line that says what to do.

Each reader raises `Damaged`, and nothing else, for whatever is wrong with the file: it is missing, cut off, altered, of
another kind, or lacks what it should hold. A cache is made anew instead.
"""

import csv
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from src.utils.atomic import atomic_write
from src.utils.errors import UserError

LARGEST = 256 << 20  # bytes of a text file
MOST_NODES = 1_000_000  # of a YAML file, whose aliases can stand for any number
DEEPEST = 100  # level of a YAML file
DIRECTORY = 0x10  # attribute of a record in a zip file that torch takes for a folder, and does not read


class Damaged(UserError):
    """A file of ours that cannot be used."""


@contextmanager
def reading(file: Path, advice: str) -> Iterator[None]:
    """Name the file in whatever goes wrong while it is read and checked.

    Args:
        file: the file.
        advice: what to do about it: a sentence.

    Raises:
        Damaged: in place of every other error.
    """
    try:
        yield
    except (Damaged, NameError, ImportError):
        raise
    except Exception as error:  # parsers raise anything, from UnicodeDecodeError to RecursionError
        raise Damaged(f"{file} {'is missing' if is_missing(file) else reason(error)}. {advice.rstrip('.')}") from error


def is_missing(file: Path) -> bool:
    with suppress(OSError):
        return not file.exists()
    return False


def reason(error: Exception) -> str:
    """Why a file cannot be used, in a line."""
    if isinstance(error, Misfit):
        return f"is damaged: {error}"
    said = error.strerror if isinstance(error, OSError) and error.strerror else f"{error}" or type(error).__name__
    return f"cannot be read: it is truncated, damaged or of another kind ({' '.join(said.split())[:200]})"


class Misfit(ValueError):
    """Content that can be read, and is not what the file should hold."""


def check(value: Any, wanted: Any, name: str = "") -> None:
    """Compare plain containers with a pattern.

    Args:
        value: what a file holds.
        wanted: a type, several in a tuple, `[pattern]` of the items of a list, or a dict of patterns, in which a key
            that ends in ? may be missing, and * stands for all keys. `Any` fits everything, an int fits float, and a
            bool is no number.
        name: that of the value, for messages.

    Raises:
        Misfit: naming the first place where they differ.
    """
    if isinstance(wanted, dict):
        check(value, dict, name)
        if "*" in wanted:
            wanted = dict.fromkeys(value, wanted["*"])
        for key, pattern in wanted.items():
            optional = isinstance(key, str) and key.endswith("?")
            key = key[:-1] if optional else key
            path = f"{name}.{key}" if name else f"{key}"
            if key in value:
                check(value[key], pattern, path)
            elif not optional:
                raise Misfit(f"{path} is missing")
    elif isinstance(wanted, list):
        check(value, list, name)
        for i, item in enumerate(value):
            check(item, wanted[0], f"{name}[{i}]")
    elif wanted is not Any:
        kinds = wanted if isinstance(wanted, tuple) else (wanted,)
        kinds = (*kinds, int) if float in kinds else kinds
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            named = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in kinds)
            raise Misfit(f"{name or 'its content'} must be {named}, got {type(value).__name__}")


def read_text(file: Path, advice: str, encoding: str = "utf-8", errors: str = "strict") -> str:
    """A text file, in UTF-8 unless it is one of the user's."""
    with reading(file, advice):
        need_file(file)
        if file.stat().st_size > LARGEST:
            raise Misfit(f"it has {file.stat().st_size:,} bytes")
        return file.read_text(encoding, errors)


def read_json(file: Path, wanted: Any, advice: str) -> Any:
    """What a JSON file holds, which `check` compares with what is wanted."""
    text = read_text(file, advice)
    with reading(file, advice):
        content = json.loads(text)
        check(content, wanted)
        return content


def read_yaml(file: Path, wanted: Any, advice: str) -> Any:
    """The same of a YAML file: plain containers only, with a bound to what its aliases stand for."""
    import yaml

    text = read_text(file, advice)
    with reading(file, advice):
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the former, ten times as fast, is there mostly
        depth = 0
        for event in yaml.parse(text, loader):  # since libyaml's loader overflows the stack of the process
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise Misfit(f"it is more than {DEEPEST} levels deep")
        content = yaml.load(text, loader)
        if sum(1 for _, _ in zip(nodes(content), range(MOST_NODES), strict=False)) == MOST_NODES:
            raise Misfit(f"it holds more than {MOST_NODES:,} values")
        check(content, wanted)
        return content


def need_file(file: Path) -> None:
    """Refuse a folder, and a pipe, which would be waited for."""
    if file.exists() and not file.is_file():
        raise ValueError("it is no file")


def nodes(value: Any) -> Iterator[Any]:
    """Every value in plain containers, as often as it is reached."""
    yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(child)


def read_rows(file: Path, advice: str) -> list[list[str]]:
    """The rows of a CSV file; a last line that a kill has cut off is left out."""
    text = read_text(file, advice)
    with reading(file, advice):
        return list(csv.reader(line for line in text.splitlines(keepends=True) if line.endswith("\n")))


def read_arrays(file: Path, names: dict[str, str], advice: str) -> dict[str, Any]:
    """The arrays of a .npz file, with their checksums verified.

    Args:
        file: the file.
        names: those that it must hold, with the kinds of their dtype, such as {"x": "f"}.
        advice: what to do where it cannot be read.
    """
    import numpy as np

    with reading(file, advice):
        verify_archive(file)
        with np.load(file, allow_pickle=False) as kept:
            arrays = dict(kept)
        for name, kinds in names.items():
            if name not in arrays:
                raise Misfit(f"{name} is missing")
            if arrays[name].dtype.kind not in kinds:
                raise Misfit(f"{name} is of {arrays[name].dtype}")
        return arrays


def read_tensors(file: Path, wanted: Any, advice: str, mmap: bool = False) -> dict[str, Any]:
    """What torch.save wrote, onto the CPU: plain containers and tensors only, with their checksums verified.

    Args:
        file: the file.
        wanted: the pattern that it must have.
        advice: what to do where it cannot be read.
        mmap: leave the tensors on the disk until they are used.
    """
    import torch

    with reading(file, advice):
        verify_archive(file)
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
        check(content, wanted)
        return content


def verify_archive(file: Path) -> None:
    """Compare every record of a zip file with its CRC32, which torch.load does not.

    Records are as torch and numpy write them: not compressed, so that what is read is no larger than the file.

    Raises:
        ValueError, OSError: where it is no such file, or a record differs.
    """
    need_file(file)
    with file.open("rb") as raw, zipfile.ZipFile(raw) as archive:
        for record in archive.infolist():
            if record.compress_type or record.file_size != record.compress_size or record.external_attr & DIRECTORY:
                raise ValueError(f"{record.filename} is altered")
            with archive.open(record) as part:
                while part.read(1 << 20):  # raises at the end of a record that differs from its checksum
                    pass


def cached(file: Path, make: Callable[[], dict[str, Any]], wanted: Any) -> dict[str, Any]:
    """What a cache keeps, made and kept where it is missing or damaged.

    Args:
        file: of the cache.
        make: makes its content: plain containers and tensors.
        wanted: the pattern that it must have.
    """
    import torch

    with suppress(Damaged):
        return read_tensors(file, wanted, "It is made anew")
    content = make()
    with suppress(OSError, UserError), atomic_write(file) as partial:  # if it cannot be kept, it is made again
        torch.save(content, partial)
    return content

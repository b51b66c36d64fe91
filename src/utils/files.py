"""Read files that this project wrote, with one-line errors for damaged ones.

Each reader raises `Damaged`, and nothing else, if the file is missing, truncated, altered, of another format, or lacks
the expected content. A damaged cache is computed again instead.
"""

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from src.utils.atomic import atomic_write
from src.utils.errors import UserError

LARGEST = 256 << 20  # bytes of a text file
MOST_NODES = 1_000_000  # values in a YAML file, whose aliases can multiply them
DEEPEST = 100  # levels of a YAML file
DIRECTORY = 0x10  # attribute by which torch takes a zip record for a folder and skips it


class Damaged(UserError):
    """A file of this project that cannot be used."""


@contextmanager
def reading(file: Path, advice: str) -> Iterator[None]:
    """Re-raise any error while a file is read and checked as `Damaged`, with the name of the file.

    Args:
        file: the file.
        advice: a sentence that says what to do about it.

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
    """Describe in one line why a file cannot be used."""
    if isinstance(error, Misfit):
        return f"is damaged: {error}"
    message = error.strerror if isinstance(error, OSError) and error.strerror else f"{error}" or type(error).__name__
    return f"cannot be read: it is truncated, damaged or of another kind ({' '.join(message.split())[:200]})"


class Misfit(ValueError):
    """Readable content that does not match the expected pattern."""


def check(value: Any, wanted: Any, name: str = "") -> None:
    """Compare plain containers with a pattern.

    Args:
        value: the content of a file.
        wanted: a type, a tuple of types, `[pattern]` for the items of a list, or a dict of patterns, in which a key
            that ends in ? is optional and * matches all keys. `Any` matches everything, an int matches float, and a
            bool is not a number.
        name: the name of the value in messages.

    Raises:
        Misfit: naming the first difference.
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
    """Read a text file."""
    with reading(file, advice):
        need_file(file)
        if file.stat().st_size > LARGEST:
            raise Misfit(f"it has {file.stat().st_size:,} bytes")
        return file.read_text(encoding, errors)


def read_json(file: Path, wanted: Any, advice: str) -> Any:
    """Read a JSON file and check its content against the pattern `wanted`."""
    text = read_text(file, advice)
    with reading(file, advice):
        content = json.loads(text)
        check(content, wanted)
        return content


def read_yaml(file: Path, wanted: Any, advice: str) -> Any:
    """Read a YAML file and check its content: plain containers only, with limits on its depth and expanded size.

    A file that begins with the mark of a document, ---, must also end with one, as every part of YAML is YAML too.
    """
    import yaml

    text = read_text(file, advice)
    with reading(file, advice):
        if text.startswith("---\n") and not text.endswith("\n...\n"):
            raise Misfit("it is truncated")
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # CSafeLoader is ten times as fast, but needs libyaml
        depth = 0
        for event in yaml.parse(text, loader):  # beforehand, since libyaml's loader overflows the stack
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise Misfit(f"it is more than {DEEPEST} levels deep")
        content = yaml.load(text, loader)
        if sum(1 for _, _ in zip(nodes(content), range(MOST_NODES), strict=False)) == MOST_NODES:
            raise Misfit(f"it holds more than {MOST_NODES:,} values")
        check(content, wanted)
        return content


def need_file(file: Path) -> None:
    """Refuse a folder, and a pipe, which would block."""
    if file.exists() and not file.is_file():
        raise ValueError("it is not a file")


def nodes(value: Any) -> Iterator[Any]:
    """Yield every value in plain containers; a shared one as often as it is referenced."""
    yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(child)


def read_rows(file: Path, advice: str) -> list[list[str]]:
    """Read the rows of a CSV file, without a last line that a kill truncated."""
    text = read_text(file, advice)
    with reading(file, advice):
        # Not by splitlines, for which a name may hold the end of a line, such as a form feed.
        return list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))


def read_arrays(file: Path, names: dict[str, str], advice: str) -> dict[str, Any]:
    """Read the arrays of a .npz file and verify their checksums.

    Args:
        file: the file.
        names: the required arrays with the kinds of their dtype, such as {"x": "f"}.
        advice: a sentence that says what to do if it cannot be read.
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
                raise Misfit(f"{name} must have a dtype of kind {' or '.join(kinds)}, got {arrays[name].dtype}")
        return arrays


def read_tensors(file: Path, wanted: Any, advice: str, mmap: bool = False) -> dict[str, Any]:
    """Read a file of torch.save onto the CPU: plain containers and tensors only, with their checksums verified.

    Args:
        file: the file.
        wanted: the pattern of its content, for `check`.
        advice: a sentence that says what to do if it cannot be read.
        mmap: True to map the tensors into memory instead of reading them.
    """
    import torch

    with reading(file, advice):
        verify_archive(file)
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
        check(content, wanted)
        return content


def verify_archive(file: Path) -> None:
    """Compare every record of a zip file with its CRC32, which torch.load does not.

    Records must be uncompressed, as torch and numpy write them, so that the content is not larger than the file.

    Raises:
        ValueError, OSError: if it is not such a file, or a record differs.
    """
    need_file(file)
    with file.open("rb") as raw, zipfile.ZipFile(raw) as archive:
        for record in archive.infolist():
            if record.compress_type or record.file_size != record.compress_size or record.external_attr & DIRECTORY:
                raise ValueError(f"{record.filename} is altered")
            with archive.open(record) as part:
                while part.read(1 << 20):  # raises at the end of a record if its checksum differs
                    pass


def cached(file: Path, make: Callable[[], dict[str, Any]], wanted: Any) -> dict[str, Any]:
    """Return the content of a cache; compute and save it if the file is missing or damaged.

    Args:
        file: the cache.
        make: computes the content, in plain containers and tensors.
        wanted: the pattern of the content, for `check`.
    """
    import torch

    with suppress(Damaged):
        return read_tensors(file, wanted, "It is computed again")
    content = make()
    with (
        suppress(OSError, UserError),
        atomic_write(file) as partial,
    ):  # if it cannot be saved, the next call computes it again
        torch.save(content, partial)
    return content

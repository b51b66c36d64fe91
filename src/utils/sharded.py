"""Safe reading of sharded checkpoints: verify checksums and run no code from the files.

torch.distributed.checkpoint itself writes no checksums, and unpickles its index, `.metadata`, and all values that are
not tensors.
"""

import os
import pickle
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from src.utils.atomic import write_json
from src.utils.files import Damaged, Misfit, read_json, reading

INDEX = ".metadata"
SHARDED = "meta.pt"  # all but the tensors
DIGESTS = "digests.json"  # the CRC32 of each of the other files
FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
# The classes in an index.
METADATA = ("ChunkStorageMetadata", "TensorProperties", "TensorStorageMetadata", "BytesStorageMetadata", "StorageMeta",
            "Metadata", "MetadataIndex", "_MEM_FORMAT_ENCODING")  # fmt: skip
ALLOWED = {
    *(("torch.distributed.checkpoint.metadata", name) for name in METADATA),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib._local", "PosixPath"),
    ("pathlib._local", "WindowsPath"),
}


class IndexUnpickler(pickle.Unpickler):
    """Unpickler that accepts only the classes in an index of torch.distributed.checkpoint."""

    def find_class(self, module: str, name: str) -> Any:
        import torch

        found = super().find_class(module, name) if (module, name) in ALLOWED or module == "torch" else None
        if (module, name) not in ALLOWED and not isinstance(found, torch.dtype):
            raise pickle.UnpicklingError(f"it names {module}.{name}, which an index does not contain")
        return found


def is_sharded(path: Path) -> bool:
    """Return True for the folder of a sharded checkpoint, complete or not."""
    return any((path / name).is_file() for name in (SHARDED, INDEX, DIGESTS))


def shard_files(folder: Path) -> list[str]:
    """The sorted names of all files in the folder except that of the checksums."""
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != DIGESTS)


def checksums(folder: Path, names: Sequence[str]) -> dict[str, int]:
    """The CRC32 of files in a folder, by name; unreadable files are left out."""
    found: dict[str, int] = {}
    for name in names:
        with suppress(OSError), (folder / name).open("rb") as file:
            value = 0
            while chunk := file.read(1 << 20):
                value = zlib.crc32(chunk, value)
            found[name] = value
    return found


def write_checksums(folder: Path, found: dict[str, int]) -> None:
    """Write the checksums of the files to their folder."""
    write_json(folder / DIGESTS, {"crc32": found})


def check_checksums(folder: Path, found: dict[str, int], advice: str) -> None:
    """Compare the checksums of the files of a folder with those that were written with it.

    A folder of an earlier version has no checksums and is not checked.

    Raises:
        Damaged: naming the first file that is missing or differs.
    """
    if not (folder / DIGESTS).exists():
        return
    for name, digest in read_json(folder / DIGESTS, {"crc32": {"*": int}}, advice)["crc32"].items():
        with reading(folder / name, advice):
            if found.get(name) != digest:
                raise Misfit(f"it differs from its checksum in {DIGESTS}")


@contextmanager
def safe_shard_loading(folder: Path, advice: str, found: dict[str, int] | None = None) -> Iterator[None]:
    """Verify a sharded checkpoint, and let torch read it within the block without running code from it.

    Args:
        folder: the checkpoint.
        advice: a sentence that says what to do if it cannot be read.
        found: the checksums of its files; computed if None.

    Raises:
        Damaged: if a file is missing or differs from its checksum, the index names any other class, or torch finds a
            shard missing or truncated.
    """
    from torch.distributed.checkpoint.api import CheckpointException

    check_checksums(folder, checksums(folder, shard_files(folder)) if found is None else found, advice)
    with reading(folder / INDEX, advice), (folder / INDEX).open("rb") as file:
        IndexUnpickler(file).load()
    before = os.environ.get(FORCED)
    os.environ[FORCED] = "1"  # for the values that are not tensors, which torch would unpickle
    try:
        yield
    except CheckpointException as error:  # a BaseException
        raise Damaged(f"{folder} is incomplete: a shard is missing, truncated or damaged. {advice}") from error
    finally:
        if before is None:
            del os.environ[FORCED]
        else:
            os.environ[FORCED] = before

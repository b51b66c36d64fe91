"""Reading the folder of a sharded checkpoint: its files are those that were written, and none of them runs code.

torch.distributed.checkpoint writes no checksum, and reads its index, `.metadata`, by pickle, and single values by
torch.load as it likes.
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
# What an index is made of.
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
    """Makes what an index of torch.distributed.checkpoint holds, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        import torch

        found = super().find_class(module, name) if (module, name) in ALLOWED or module == "torch" else None
        if (module, name) not in ALLOWED and not isinstance(found, torch.dtype):
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not of an index")
        return found


def is_sharded(path: Path) -> bool:
    """Whether this is the folder of a sharded checkpoint, whole or not."""
    return any((path / name).is_file() for name in (SHARDED, INDEX, DIGESTS))


def shard_files(folder: Path) -> list[str]:
    """The names of the files that have a digest."""
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != DIGESTS)


def checksums(folder: Path, names: Sequence[str]) -> dict[str, int]:
    """The CRC32 of files in a folder, without those that cannot be read."""
    found: dict[str, int] = {}
    for name in names:
        with suppress(OSError), (folder / name).open("rb") as file:
            value = 0
            while chunk := file.read(1 << 20):
                value = zlib.crc32(chunk, value)
            found[name] = value
    return found


def write_checksums(folder: Path, found: dict[str, int]) -> None:
    """Keep the digests of its files in the folder."""
    write_json(folder / DIGESTS, {"crc32": found})


def check_checksums(folder: Path, found: dict[str, int], advice: str) -> None:
    """Compare the digests of the files of a folder with those that were kept when it was written.

    A folder of an earlier version has none, and is not checked.

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
    """Within it torch reads the folder of a sharded checkpoint, whose files were looked at, without running code.

    Args:
        folder: of the checkpoint.
        advice: what to do where it cannot be read: a sentence.
        found: the digests of its files; computed where None.

    Raises:
        Damaged: where a file is missing or differs from its digest, the index names anything but what an index is made
            of, or torch finds a part missing or cut off.
    """
    from torch.distributed.checkpoint.api import CheckpointException

    check_checksums(folder, checksums(folder, shard_files(folder)) if found is None else found, advice)
    with reading(folder / INDEX, advice), (folder / INDEX).open("rb") as file:
        IndexUnpickler(file).load()
    before = os.environ.get(FORCED)
    os.environ[FORCED] = "1"  # of the values that are no tensors, which it would unpickle
    try:
        yield
    except CheckpointException as error:  # which is no Exception
        raise Damaged(f"{folder} is not whole: a part of it is missing, cut off or damaged. {advice}") from error
    finally:
        if before is None:
            del os.environ[FORCED]
        else:
            os.environ[FORCED] = before

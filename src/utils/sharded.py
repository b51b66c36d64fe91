"""Reading the folder of a sharded checkpoint without running what is in it.

torch.distributed.checkpoint reads its index, `.metadata`, by pickle, and single values by torch.load as it likes.
"""

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.utils.files import reading

INDEX = ".metadata"
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


@contextmanager
def harmless(folder: Path, advice: str) -> Iterator[None]:
    """Within it torch reads the folder of a sharded checkpoint, whose index was looked at, without running code.

    Raises:
        Damaged: where the index is missing, damaged, or names anything but what an index is made of.
    """
    with reading(folder / INDEX, advice), (folder / INDEX).open("rb") as file:
        IndexUnpickler(file).load()
    before = os.environ.get(FORCED)
    os.environ[FORCED] = "1"  # of the values that are no tensors, which it would unpickle
    try:
        yield
    finally:
        if before is None:
            del os.environ[FORCED]
        else:
            os.environ[FORCED] = before

"""The identity of data, used to resume, evaluate and compare runs.

`data_id` is equal for two runs trained on the same data; `data_changes` describes how the data of a run changed.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from math import isclose
from typing import Any

# Settings of loading, which do not change the identity of the data. The split into training and validation data does,
# since it determines the data that a run is trained and validated on.
DATA_LOADING_KEYS = (
    "batch_size", "num_workers", "seed", "cache_gb", "mirrors", "offline", "sha256", "subfolder", "files",
    "normalize", "per_channel", "units", "num_classes", "flip", "index", "rescan", "shuffle_window", "vector_size",
)  # fmt: skip
LOCATION_KEYS = ("root", "val_root", "image", "val_image")


def data_changes(recorded: Mapping[str, Any] | None, current: Mapping[str, Any]) -> str | None:
    """Describe in a sentence how the data differ from those that a run was started with; None if they do not.

    Args:
        recorded: `DataModule.identity` at the start of the run; None, or without a key, if it was not recorded.
        current: the present identity of the data.
    """
    found = []
    for name, new in current.items():
        old = new if recorded is None else recorded.get(name, new)
        if isinstance(new, int) and old != new:
            found.append(f"{old:,} {name} then, {new:,} now")
        elif not (nearly_equal(old, new) if isinstance(new, list) else old == new):
            found.append(f"other {name}")
    return f"the data have changed since this run was trained on them: {'; '.join(found)}" if found else None


def nearly_equal(a: Sequence[float], b: Sequence[float]) -> bool:
    """True if numbers are equal up to the rounding of another machine, or if there are none to compare."""
    pairs = zip(a, b, strict=False)
    return not (a and b) or (len(a) == len(b) and all(isclose(x, y, rel_tol=1e-3, abs_tol=1e-4) for x, y in pairs))


def identifying_settings(settings: Mapping[str, Any], files: str | None) -> dict[str, Any]:
    """The settings that identify the data; the location of files does not count if their hash is known.

    Args:
        settings: the `data` section of a config.
        files: the hash of the data's files in their identity, if known.
    """
    known = files is not None or settings.get("sha256")
    own = {
        key: value
        for key, value in settings.items()
        if key not in (*DATA_LOADING_KEYS, *(LOCATION_KEYS if known else ()))
    }
    return own if files is None else own | {"files": files}


def data_id(identifying: Mapping[str, Any]) -> str:
    """A hash of six letters of `identifying_settings`."""
    return sha256(repr(sorted(identifying.items())).encode()).hexdigest()[:6]

"""Whether data are the same: where a run goes on, is evaluated, or stands beside another."""

from collections.abc import Mapping, Sequence
from math import isclose
from typing import Any

# Settings that say how data are read, which does not make them others.
HOW = ("batch_size", "num_workers", "seed", "val_size", "val_share", "cache_gb", "mirrors", "offline", "sha256",
       "subfolder", "files", "num_classes", "flip", "index", "rescan", "window")  # fmt: skip
PLACES = ("root", "val_root")


def changes(then: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str | None:
    """In a sentence, what differs between the data of a run at its start and those of now; None where nothing does.

    What is not known of the start, as of a run of an earlier version, is not compared.
    """
    found = []
    for name, b in now.items():
        a = b if then is None else then.get(name, b)
        if isinstance(b, int) and a != b:
            found.append(f"{a:,} {name} then, {b:,} now")
        elif not (alike(a, b) if isinstance(b, list) else a == b):
            found.append(f"other {name}")
    return f"the data have changed since this run was trained on them: {'; '.join(found)}" if found else None


def alike(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether numbers are the same but for what another machine computes otherwise."""
    pairs = zip(a, b, strict=False)
    return not (a and b) or (len(a) == len(b) and all(isclose(x, y, rel_tol=1e-3, abs_tol=1e-4) for x, y in pairs))


def data_settings(settings: Mapping[str, Any], files: str | None) -> dict[str, Any]:
    """What of the settings of data tells them from others; files that are known are the same wherever they lie.

    Args:
        settings: as in the config of a run.
        files: of the identity of its data, where that is known.
    """
    known = files is not None or settings.get("sha256")
    own = {key: value for key, value in settings.items() if key not in (*HOW, *(PLACES if known else ()))}
    return own if files is None else own | {"files": files}

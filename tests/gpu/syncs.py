"""How often, and where, the host waits for the device."""

import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).parents[2]
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
READS = ("aten::_local_scalar_dense", "Memcpy DtoH")  # a number read by the host; copies to it, which may be awaited
OUTSIDE = "outside of the project"
END = "end of what is counted"  # the profiler waits for the device when it stops


class SyncCounter:
    """Counts the events of a profile.

    Attributes:
        counts: by name; of a copy the name begins as in READS.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = dict.fromkeys((*WAITS, *READS), 0)

    @property
    def waits(self) -> int:
        """How often the host waited for the GPU."""
        return sum(self.counts[name] for name in WAITS)

    @contextmanager
    def profile(self, activities: Sequence[Any]) -> Iterator[None]:
        """Count what happens in this context."""
        with torch.profiler.profile(activities=activities) as profile:
            yield
            with torch.profiler.record_function(END):
                pass
        self.count(profile.events())

    def count(self, events: Sequence[Any]) -> None:
        """Count those that begin before the end."""
        end = min((e.time_range.start for e in events if e.name == END), default=float("inf"))
        for event in events:
            for name in self.counts:
                if event.name.startswith(name) and event.time_range.start < end:
                    self.counts[name] += 1


def project_line() -> str:
    """Where this project called what is running: FILE:LINE of the innermost frame in src/, else of a library."""
    frame, fallback = sys._getframe(1), OUTSIDE
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT / "src"):
            return f"{path.relative_to(ROOT)}:{frame.f_lineno}"
        if "site-packages" in path.parts and fallback == OUTSIDE:
            library = Path(*path.parts[path.parts.index("site-packages") + 1 :])
            fallback = OUTSIDE if library.parts[0] == "torch" else f"{library}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return fallback


@contextmanager
def cuda_sync_sites() -> Iterator[Counter[str]]:
    """The lines at which the host waits for the GPU, as torch warns of them."""
    sites: Counter[str] = Counter()

    def note(message: Any, *args: Any, **kwargs: Any) -> None:
        if "called a synchronizing" in str(message):
            sites[project_line()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield sites
        finally:
            torch.cuda.set_sync_debug_mode(before)


@contextmanager
def cpu_sync_sites() -> Iterator[Counter[str]]:
    """The lines at which a number is read from a tensor, at which a host would wait for its GPU."""
    sites: Counter[str] = Counter()

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten._local_scalar_dense.default:
                sites[project_line()] += 1
            return func(*args, **(kwargs or {}))

    with Reads():
        yield sites

"""Messages for the terminal and the log file of a run."""

import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.utils.errors import UserError

if TYPE_CHECKING:
    from tqdm import tqdm

log = logging.getLogger("diffusion-lab")

# Warnings of libraries about intended behavior.
IGNORED_WARNINGS = (
    "does not have many workers",
    "your dataloader is not resumable",
    "training batches .* is smaller than the logging interval",
    "Checkpoint directory .* exists and is not empty",
    "No device id is provided",
    "isinstance.treespec, LeafSpec",
    "no `training_step` logger",
    "Starting from v1.9.0, `tensorboardX` has been removed",
    "was not set up with",
    "You called `self.log",
    "Experiment logs directory",
    "found submodules? in eval mode",
    "Found .* module\\(s\\) in eval mode",
    "using `self.log",
    "all_gather is deprecated",
    "on epoch level in distributed setting",
    "will save all (extracted )?(features|predictions)",
    "barrier\\(\\): using the device under current context",
)


# What failed and was gone on without in this process.
tolerated: dict[str, Exception] = {}


@contextmanager
def tolerating(what: str, but: type[Exception] | tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Go on without something that a run can do without, such as a picture, if it fails; it is said once.

    Args:
        what: the name of the thing.
        but: errors that are raised all the same.
    """
    try:
        yield
    except but:
        raise
    except Exception as error:
        if what not in tolerated:
            text = " ".join(str(error).split())
            log.warning(f"WARNING: {what} failed, and the run goes on without: {type(error).__name__}: {text}")
        tolerated[what] = error


def start_logging(file: Path | None) -> None:
    """Send messages to the terminal, and to `file` if given.

    Raises:
        UserError: if the path exists and is not a file, such as a pipe.
    """
    if file is not None and file.exists() and not file.is_file():
        raise UserError(f"{file} must be a file, since the log of the run is written there; remove or rename it")
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    if isinstance(sys.stdout, TextIOWrapper):  # paths may hold bytes that are not UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    terminal = logging.StreamHandler(sys.stdout)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    root.addHandler(terminal)
    if file is not None:
        to_file = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace", delay=True)
        to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root.addHandler(to_file)
    root.setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    for noisy in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
        logging.getLogger(noisy).handlers.clear()
        logging.getLogger(noisy).propagate = True
    for text in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=f"(?s).*{text}")
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about damaged EXIF data of readable images


def progress_bar(total: int | None, description: str, **options: Any) -> "tqdm":
    """A progress bar, updated often on a terminal and rarely in a log file."""
    interval = 0.3 if sys.stderr.isatty() else 20
    from tqdm import tqdm  # --help need not wait for it

    return tqdm(
        total=total, desc=description, dynamic_ncols=True, mininterval=interval, maxinterval=interval, **options
    )


def key_value_table(rows: list[tuple[str, str]]) -> str:
    """Format rows of (name, text) as two aligned columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {text}" for name, text in rows)


def describe(node: Any) -> str:
    """Format a config node as `Name(argument=value, ...)`, without keys that begin with _; any other value as text."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        return "none" if node is None else str(node)
    arguments = ", ".join(f"{key}={describe(value)}" for key, value in node.items() if key[0] != "_")
    name = node["_target_"].split(".")[-1]
    return f"{name}({arguments})" if arguments else name


def format_duration(seconds: float) -> str:
    """Format a duration with three digits, in a unit from microseconds to days."""
    units = [(172800, 86400, "days"), (3600, 3600, "h"), (60, 60, "min"), (1, 1, "s"), (1e-3, 1e-3, "ms")]
    unit, name = next(((unit, name) for least, unit, name in units if seconds >= least), (1e-6, "us"))
    return f"{seconds / unit:.3g} {name}"

"""Open data sets of the library datasets: saved folders, local files, and names on the Hugging Face hub."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.data.names import part_of
from src.utils.errors import UserError, printable

TABLES = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".json": "json", ".jsonl": "json"}
SAVED = ("dataset_dict.json", "state.json")  # in folders written by save_to_disk
OFFLINE = (
    "it is in no cache here, and the hub cannot be reached; download it where there is a network (HF_HOME names the "
    "cache), or set data.path to a folder or a Parquet file"
)


def open_splits(path: str, config: str | None = None, revision: str | None = None) -> dict[str, Any]:
    """The splits of a data set by name, each a map-style `datasets.Dataset`.

    Args:
        path: folder that `save_to_disk` wrote, file or folder of Parquet, Arrow, CSV or JSON files or of images, or a
            name on the hub.
        config: name of its configuration, if it has several.
        revision: of a data set on the hub, such as a commit.

    Raises:
        UserError: if it does not exist, cannot be reached, or is no data set.
    """
    datasets = import_datasets()
    place = Path(path).expanduser()
    with quiet(), one_line(path):
        if any((place / name).exists() for name in SAVED):
            found = datasets.load_from_disk(str(place))
        elif place.is_file():
            if place.suffix not in TABLES:
                raise UserError(f"data.path={path} must be a folder or end in {', '.join(TABLES)}")
            found = datasets.load_dataset(TABLES[place.suffix], data_files=str(place))
        elif place.exists():
            found = datasets.load_dataset(str(place), config)
        else:
            found = datasets.load_dataset(path, config, revision=revision)
    splits = dict(found) if isinstance(found, Mapping) else {str(found.split or "train"): found}
    if not splits or not all(map(len, splits.values())):
        raise UserError(f"data.path={path} must have samples in each split, got {sizes(splits)}")
    return splits


def import_datasets() -> Any:
    """The library, imported on first use."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            "data=huggingface needs the library datasets: pip install 'diffusion-lab[huggingface]'"
        ) from error
    return datasets


@contextmanager
def one_line(path: str) -> Iterator[None]:
    """Report what the library says of a data set that it cannot open in one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # any, from ConnectionError to ArrowInvalid
        lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
        reason = printable((lines or [type(error).__name__])[0])[:300]
        if isinstance(error, FileNotFoundError) and "/" not in path.strip("/."):
            reason = f"there is neither such a folder nor such a name on the hub ({reason})"
        raise UserError(f"data.path={path}: {OFFLINE if isinstance(error, ConnectionError) else reason}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the library's retries and warnings, whose outcome is reported in one line."""
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub", "huggingface_hub.utils._http")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def choose_splits(
    splits: Mapping[str, Any], train: str | None, val: str | None, test: str | None
) -> dict[str, str | None]:
    """The names of the splits for training, validation and test; None for one that is taken from another.

    Args:
        splits: those that there are.
        train, val, test: names that the user gave; by default the splits with the usual names.

    Raises:
        UserError: for a name that does not exist, and if no split is named for training.
    """
    chosen: dict[str, str | None] = {"train": train, "val": val, "test": test}
    for part, name in chosen.items():
        setting = "data.split" if part == "train" else f"data.{part}_split"
        if name is not None and name not in splits:
            raise UserError(f"{setting}={name} must be one of the splits {sizes(splits)}")
        usual = [split for split in splits if part_of(split) == part and split not in chosen.values()]
        if name is None and len(usual) > 1:
            raise UserError(f"{setting} must say which split to use, of {', '.join(usual)}")
        if name is None and usual:
            chosen[part] = usual[0]
    if chosen["train"] is None and len(splits) == 1:
        chosen["train"] = next(iter(splits))
    if chosen["train"] is None:
        raise UserError(f"data.split must name the split to train on, of {sizes(splits)}")
    return chosen


def sizes(splits: Mapping[str, Any]) -> str:
    """The splits with their numbers of rows, as text."""
    return ", ".join(f"{printable(name)} ({len(split):,})" for name, split in splits.items())

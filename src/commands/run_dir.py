"""The folder of a run: a new one, or that of a run with the same settings to resume."""

import itertools
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, read_write

from src.runs.run import CONFIG, RECORD, Run
from src.runs.trust import is_trusted
from src.utils.console import log
from src.utils.errors import UserError
from src.utils.folders import check_empty, check_named
from src.utils.hardware import is_main_process
from src.utils.override_syntax import assignment, command, in_quotes, override_value, split_flags, without_interpolation
from src.utils.processes import cluster_environment
from src.utils.targets import untrusted_targets


class FailedBefore(UserError):
    """A job that failed in an earlier start of the sweep; the message is its error."""


def hydra_run() -> Run:
    """The run in the folder that Hydra made.

    Raises:
        UserError: if the name of the folder is empty.
    """
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.RUN:
        check_named("hydra.run.dir", hydra.run.dir)
    return Run(hydra.runtime.output_dir)


def find_run_dir(cfg: DictConfig, new_run: Run, key: str) -> tuple[str, bool, bool]:
    """The folder of a run, whether it resumes from a checkpoint there, and whether it is finished.

    Args:
        cfg: the resolved config.
        new_run: the folder that Hydra made.
        key: the hash of the run's settings; with auto_resume=true, and in a sweep, a run with the same key is resumed.

    Raises:
        FailedBefore: for a job that failed before, without sweep.retry=true.
        UserError: if the folder holds another run or other files.
    """
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    if cfg.resume is not None:
        return str(new_run.path), not new_run.is_blank, False
    if not is_main_process():
        return str(new_run.path), False, False
    if cfg.auto_resume or sweeping:
        for run in sibling_runs(new_run):
            metadata = metadata_or_empty(run)
            if metadata.get("key") != key:
                continue
            if metadata.get("failed") and sweeping and not cfg.sweep.retry:
                raise FailedBefore(metadata["failed"])
            return str(run.path), not run.finished and run.has_checkpoint, run.finished
    try:
        check_unused(new_run, sweeping)
    except UserError:
        if not sweeping:
            raise
        return new_job_dir(new_run.path.parent), False, False  # the folder is that of another job of the sweep
    return str(new_run.path), False, False


def check_unused(new_run: Run, sweeping: bool) -> None:
    """Refuse to start a run in a folder that holds another run or other files.

    Raises:
        UserError: saying what the folder holds.
    """
    path = new_run.path
    if new_run.exists and not sweeping:
        resume = command("train", assignment("resume", path))
        raise UserError(f"{path} already holds a run; resume it with {resume}, or name another folder")
    if new_run.exists or "overrides" not in metadata_or_empty(new_run):  # the first entry that a run writes
        check_empty("hydra.run.dir", path)
    elif not new_run.is_blank:
        raise UserError(
            f"{path} holds a run without its {CONFIG}; take that from another run of the same settings, or name "
            "another folder"
        )


def sibling_runs(new_run: Run) -> Iterator[Run]:
    """The run in the folder that Hydra made, if there was one before, then the runs beside it, the newest first."""
    if new_run.exists:
        yield new_run
    records = new_run.path.parent.glob(f"*/{RECORD}")
    for record in sorted(records, key=lambda file: file.stat().st_mtime, reverse=True):
        if record.parent != new_run.path:
            yield Run(record.parent)


def metadata_or_empty(run: Run) -> dict[str, Any]:
    """The metadata of a run; empty, with a warning, if they are damaged, so that other runs can still be found."""
    try:
        return run.metadata()
    except UserError as error:
        log.warning(f"WARNING: a run is skipped: {error}")
        return {}


def new_job_dir(sweep: Path) -> str:
    """Make a new numbered folder for a job in the folder of a sweep."""
    numbers = [int(folder.name) for folder in sweep.iterdir() if folder.name.isdigit()]
    for number in itertools.count(max(numbers, default=-1) + 1):
        with suppress(FileExistsError):
            (sweep / str(number)).mkdir()
            return str(sweep / str(number))
    raise AssertionError("unreachable")


def pin_run_dir(run: Run, resumes: bool, overrides: Sequence[str], plain: dict[str, Any]) -> None:
    """Make the processes that Lightning starts by repeating the command line use the folder of this run.

    Args:
        run: the run.
        resumes: True if it resumes.
        overrides: those of the command line, as Hydra was given them.
        plain: the resolved config as plain containers.
    """
    config: Any = HydraConfig.instance().cfg
    with read_write(config.hydra):
        # Lightning puts it between quotes.
        config.hydra.run.dir = without_interpolation(in_quotes(without_interpolation(str(run.path))))
    alone = cluster_environment() is None and config.hydra.mode == RunMode.RUN
    if resumes and alone and override_value("resume", overrides) is None:
        # This process has checked the targets in the folder, or its own command line names the same ones.
        saved, own = ({name for _, name in untrusted_targets(cfg)} for cfg in (run.settings(), plain))
        trust = ["trust=true"] if is_trusted() or (saved and saved <= own) else []
        sys.argv[1:] = [assignment("resume", run.path), *trust, *split_flags(sys.argv[1:])[1]]

"""What is settled before a run begins: all of its settings, its folder, and whether it goes on with what is there."""

import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write

from src.commands.cli import to_container
from src.commands.config import LAUNCH_KEYS, hydra_run, resolve_config
from src.commands.options import Train
from src.runs.check_config import check_config, check_options
from src.runs.run import CONFIG, LOG, RECORD, Run, portable
from src.runs.trust import is_trusted, untrusted_targets
from src.utils.console import log
from src.utils.errors import UserError
from src.utils.folders import LOCK, check_empty, remove_if_empty
from src.utils.hardware import is_main_process, precision_for
from src.utils.override_syntax import assignment, command, in_quotes, override_value, split_flags, without_interpolation
from src.utils.processes import agreed, launched_together

LOCK_TIMEOUT = 10  # seconds to wait for a folder; the workers of a process that was killed live on for some


class FailedBefore(UserError):
    """A job of a sweep that failed when the sweep ran before; the message is the error of then."""


@dataclass
class RunSetup:
    """A run before it begins.

    Attributes:
        cfg: its settings.
        plain: the same as plain containers, resolved, without those that say how it is started.
        run: its folder.
        resumes: whether it goes on from the last checkpoint there.
        finished: whether there is nothing left to do.
        overrides, key: what it was started with, and what tells it from other runs; both for its record.
    """

    cfg: DictConfig
    plain: dict[str, Any]
    run: Run
    resumes: bool
    finished: bool
    overrides: list[str]
    key: str
    lock: FileLock | None = None

    def lock_folder(self) -> None:
        """Keep other processes from training in the same folder, for as long as this one lives, and say whose it is.

        Raises:
            UserError: where one does.
        """
        self.run.path.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(self.run.path / LOCK)
        try:
            self.lock.acquire(timeout=LOCK_TIMEOUT)
        except Timeout:
            self.lock = None
            raise UserError(f"{self.run.path} is being trained by another process; wait for it, or stop it") from None
        if not (self.run.path / RECORD).exists():
            self.run.update_metadata(overrides=self.overrides, key=self.key)

    def discard_folder(self) -> None:
        """Let others train there; of a run that never began leave nothing, which is what this process wrote."""
        if self.lock is not None and not self.run.exists and not any(self.run.checkpoints.glob("*.ckpt")):
            for name in (LOG, RECORD, LOCK):
                (self.run.path / name).unlink(missing_ok=True)
            remove_if_empty(self.run.checkpoints)
        self.unlock_folder()
        remove_if_empty(self.run.path)

    def unlock_folder(self) -> None:
        """Let others train there."""
        if self.lock is not None:
            self.lock.release()

    def outcome(self) -> Any:
        """The results that `sweep.objective` names, for a search; None in all but the first process."""
        if not is_main_process():
            return None
        if self.finished and HydraConfig.get().mode == RunMode.RUN:
            more = command("train", assignment("resume", self.run.path), "trainer.max_steps=N")
            print(f"{self.run.path} is finished already; with more steps it goes on: {more}")
        return objective(self.cfg.sweep.objective, self.run)


def objective(names: Any, run: Run) -> Any:
    """The result of a run that has a name, or those of a list of names; None where it has no value.

    Raises:
        UserError: where the run has no such result.
    """
    facts = run.metadata()
    results = {key: value for key, value in facts["results"].items() if value is None or isinstance(value, int | float)}
    results |= {"parameters": facts["parameters"]} if "parameters" in facts else {}
    for name in [names] if isinstance(names, str) else names:
        if name not in results:
            raise UserError(f"sweep.objective={name}: the run has no such result. It has {', '.join(results)}")
    return results[names] if isinstance(names, str) else [results[name] for name in names]


def setup_run(cfg: DictConfig) -> RunSetup:
    """Complete and check the settings, and find the folder.

    Raises:
        UserError: for every mistake that the settings alone show, and a folder that is another run's.
    """
    new_run = hydra_run()
    try:
        cfg, overrides = resolve_config(cfg, new_run)
        key = run_key(to_container(cfg))
        if cfg.trainer.precision == "auto":
            cfg.trainer.precision = precision_for(cfg.trainer.accelerator)
        check_options(to_container(cfg), Train)
        check_config(to_container(cfg))
        number = OmegaConf.select(cast(DictConfig, HydraConfig.instance().cfg), "hydra.job.num")
        path, resumes, finished = agreed(f"folder {number}", lambda: find_run_dir(cfg, new_run, key))
    except BaseException:
        remove_if_empty(new_run.path)
        raise
    if Path(path) != new_run.path:
        remove_if_empty(new_run.path)
    cfg.paths.run = path
    if resumes:
        cfg.resume = path
    plain = {name: value for name, value in to_container(cfg).items() if name not in LAUNCH_KEYS}
    setup = RunSetup(cfg, plain, Run(path), resumes, finished, overrides, key)
    pin_run_dir(setup)
    return setup


def run_key(plain: dict[str, Any]) -> str:
    """A hash of the settings that make a run this one; where it lies and how it was started do not."""
    own = {name: value for name, value in portable(plain).items() if name not in (*LAUNCH_KEYS, "paths")}
    return sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()[:16]


def find_run_dir(cfg: DictConfig, new_run: Run, key: str) -> tuple[str, bool, bool]:
    """The folder of a run, whether it resumes there, and whether it is finished.

    Args:
        cfg: its settings.
        made: the folder that Hydra made for it.
        key: what tells it from other runs.
    """
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    if cfg.resume is not None:
        return str(new_run.path), not new_run.is_blank, False
    if not is_main_process():
        return str(new_run.path), False, False
    if cfg.auto_resume or sweeping:
        for run in sibling_runs(new_run):
            facts = metadata_or_empty(run)
            if facts.get("key") != key:
                continue
            if facts.get("failed") and sweeping and not cfg.sweep.retry:
                raise FailedBefore(facts["failed"])
            return str(run.path), not run.finished and run.has_checkpoint, run.finished
    if new_run.exists and not sweeping:
        raise UserError(
            f"{new_run.path} already holds a run; go on with it by {resuming(new_run)}, or name another folder"
        )
    try:
        if new_run.exists or "overrides" not in metadata_or_empty(new_run):  # which the first file of a run has
            check_empty("hydra.run.dir", new_run.path)
        elif not new_run.is_blank:
            advice = "take that from another run of the same settings, or name another folder"
            raise UserError(f"{new_run.path} holds a run without its {CONFIG}; {advice}")
    except UserError:
        if not sweeping:
            raise
        return new_job_dir(new_run.path.parent), False, False  # another job is here, of the sweep as it was
    return str(new_run.path), False, False


def resuming(run: Run) -> str:
    """The command that goes on with a run."""
    return command("train", assignment("resume", run.path))


def metadata_or_empty(run: Run) -> dict[str, Any]:
    """What the record of a run holds, of which one that is damaged must not stop the others."""
    try:
        return run.metadata()
    except UserError as error:
        log.warning(f"WARNING: a run is passed over: {error}")
        return {}


def sibling_runs(new_run: Run) -> Iterator[Run]:
    """The run in the folder that Hydra made, where it was there before, and then those beside it, the newest first."""
    if new_run.exists:
        yield new_run
    records = new_run.path.parent.glob(f"*/{RECORD}")
    for record in sorted(records, key=lambda file: file.stat().st_mtime, reverse=True):
        if record.parent != new_run.path:
            yield Run(record.parent)


def new_job_dir(sweep: Path) -> str:
    """Make the folder of a job that is none of those which the sweep holds."""
    numbers = [int(folder.name) for folder in sweep.iterdir() if folder.name.isdigit()]
    for number in itertools.count(max(numbers, default=-1) + 1):
        with suppress(FileExistsError):
            (sweep / str(number)).mkdir()
            return str(sweep / str(number))
    raise AssertionError("unreachable")


def pin_run_dir(setup: RunSetup) -> None:
    """Let processes that Lightning starts by repeating the command line find this one run in its folder."""
    config: Any = HydraConfig.instance().cfg
    with read_write(config.hydra):
        # Lightning puts it between quotes.
        config.hydra.run.dir = without_interpolation(in_quotes(without_interpolation(str(setup.run.path))))
    alone = launched_together() is None and config.hydra.mode == RunMode.RUN
    if setup.resumes and alone and override_value("resume", HydraConfig.get().overrides.task) is None:
        # What the folder names was checked here, or is what this command line names itself.
        saved, own = ({name for _, name in untrusted_targets(cfg)} for cfg in (setup.run.settings(), setup.plain))
        trust = ["trust=true"] if is_trusted() or (saved and saved <= own) else []
        sys.argv[1:] = [assignment("resume", setup.run.path), *trust, *split_flags(sys.argv[1:])[1]]

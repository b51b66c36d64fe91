"""Set up a run before training: resolve and check its config, find its folder, decide whether it resumes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, cast

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from src.commands.cli import to_container
from src.commands.config import LAUNCH_KEYS, resolve_config, take_auto, without_effect
from src.commands.options import TrainOptions
from src.commands.run_dir import find_run_dir, hydra_run, pin_run_dir
from src.runs.check_config import check_config, check_options
from src.runs.run import LOG, RECORD, Run, portable
from src.utils.errors import UserError
from src.utils.folders import LOCK, remove_if_empty
from src.utils.hardware import default_precision, is_main_process
from src.utils.override_syntax import assignment, command
from src.utils.processes import decide_on_rank_zero

LOCK_TIMEOUT = 10  # seconds to wait for the lock of a folder; the workers of a killed process live on for some


@dataclass
class RunSetup:
    """A run before it starts.

    Attributes:
        cfg: the resolved config.
        plain: the config as plain containers, without the LAUNCH_KEYS; this is what config.yaml holds.
        run: the run folder.
        resumes: True if the run resumes from its last checkpoint.
        finished: True if there is nothing left to do.
        overrides: the overrides of the command line, without the LAUNCH_KEYS.
        key: the hash of the settings, by which auto_resume and sweeps find the run again.
        unused: the overrides that change nothing in this combination of parts.
        auto_batch: True if the batch size is still to be found, for data.batch_size=auto.
        batch_facts: the batch size that was found, and how.
    """

    cfg: DictConfig
    plain: dict[str, Any]
    run: Run
    resumes: bool
    finished: bool
    overrides: list[str]
    key: str
    lock: FileLock | None = None
    unused: Sequence[str] = ()
    auto_batch: bool = False
    batch_facts: dict[str, Any] | None = None

    def lock_folder(self) -> None:
        """Lock the folder for the life of this process, and write the overrides and the key of the run there.

        Raises:
            UserError: if another process is training in the folder.
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

    def set_batch_size(self, facts: dict[str, Any]) -> None:
        """Put the batch size that was found into the config, and with it all that refers to it."""
        self.batch_facts = facts
        self.cfg.data.batch_size = facts["batch_size"]
        self.plain = without_launch_keys(self.cfg)

    def discard_folder(self) -> None:
        """Unlock the folder of a run that did not start, and remove what this process wrote there."""
        if self.lock is not None and not self.run.exists and not any(self.run.checkpoints.glob("*.ckpt")):
            for name in (LOG, RECORD, LOCK):
                (self.run.path / name).unlink(missing_ok=True)
            remove_if_empty(self.run.checkpoints)
        self.unlock_folder()
        remove_if_empty(self.run.path)

    def unlock_folder(self) -> None:
        """Release the lock of the folder."""
        if self.lock is not None:
            self.lock.release()

    def result(self) -> Any:
        """The results that `sweep.objective` names, for a search; None on all but the first process."""
        if not is_main_process():
            return None
        if self.finished and HydraConfig.get().mode == RunMode.RUN:
            more = command("train", assignment("resume", self.run.path), "trainer.max_steps=N")
            print(f"{self.run.path} is already finished; train it longer with {more}")
        return run_results(self.cfg.sweep.objective, self.run)


def setup_run(cfg: DictConfig) -> RunSetup:
    """Resolve the config, check it, and find the folder of the run.

    Args:
        cfg: the config that Hydra composed.

    Raises:
        UserError: for every mistake that the config alone shows, and for a folder that holds another run.
    """
    new_run = hydra_run()
    try:
        unused = [] if cfg.resume else without_effect(cfg, HydraConfig.get().overrides.task)
        cfg, overrides = resolve_config(cfg, new_run)
        chosen = to_container(cfg)  # with what is auto, so that every machine has the same key
        auto_batch = take_auto(cfg)
        if cfg.trainer.precision == "auto":
            cfg.trainer.precision = default_precision(cfg.trainer.accelerator)
        check_options(to_container(cfg), TrainOptions)
        if cfg.trainer.max_steps == 0 and cfg.get("pretrained") is None:
            raise UserError("trainer.max_steps must be -1 or >= 1, got 0, which only takes a pretrained model in")
        check_config(to_container(cfg))
        key = run_key(chosen)
        number = OmegaConf.select(cast(DictConfig, HydraConfig.instance().cfg), "hydra.job.num")
        path, resumes, finished = decide_on_rank_zero(f"folder {number}", lambda: find_run_dir(cfg, new_run, key))
    except BaseException:
        remove_if_empty(new_run.path)
        raise
    run = Run(path)
    if run.path != new_run.path:
        remove_if_empty(new_run.path)
    cfg.paths.run = path
    if resumes:
        cfg.resume = path
    plain = without_launch_keys(cfg)
    pin_run_dir(run, resumes, HydraConfig.get().overrides.task, plain)
    return RunSetup(cfg, plain, run, resumes, finished, overrides, key, auto_batch=auto_batch, unused=unused)


def without_launch_keys(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain containers, without the LAUNCH_KEYS."""
    return {name: value for name, value in to_container(cfg).items() if name not in LAUNCH_KEYS}


def run_key(plain: dict[str, Any]) -> str:
    """A hash of the settings of a run, without its folders and the LAUNCH_KEYS."""
    own = {name: value for name, value in portable(plain).items() if name not in (*LAUNCH_KEYS, "paths")}
    return sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()[:16]


def run_results(names: Any, run: Run) -> Any:
    """The result of a run by name, or a list of results by a list of names; None for a result without a value.

    Raises:
        UserError: if the run has no result of that name.
    """
    metadata = run.metadata()
    results = {k: value for k, value in metadata["results"].items() if value is None or isinstance(value, int | float)}
    results |= {"parameters": metadata["parameters"]} if "parameters" in metadata else {}
    for name in [names] if isinstance(names, str) else names:
        if name not in results:
            raise UserError(f"sweep.objective={name}: the run has no such result. It has {', '.join(results)}")
    return results[names] if isinstance(names, str) else [results[name] for name in names]

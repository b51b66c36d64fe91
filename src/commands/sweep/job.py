"""One job of a sweep, in whatever process its launcher has given it."""

import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src.commands.cli import exit_with_error, one_line_message, user_message
from src.commands.run_dir import FailedBefore
from src.commands.run_setup import setup_run
from src.runs.sweep import Job, SweepPlan, SweepProgress, format_duration
from src.utils.console import start_logging
from src.utils.errors import UserError
from src.utils.override_syntax import assignment, command, read
from src.utils.paths import settle_strings
from src.utils.processes import cluster_environment, is_worker_rank

how_far = SweepProgress()  # of this process


def run_job(task: Callable[[DictConfig], Any], cfg: DictConfig) -> Any:
    """Run the task; where it fails, leave the error in the folder of the sweep and let the other jobs go on.

    Returns:
        what the task does, and None where it failed.
    """
    hydra = HydraConfig.get()
    if is_worker_rank():
        return follow_job(task, cfg)
    sweep, number = Path(hydra.sweep.dir), int(hydra.job.num)
    plan = SweepPlan.read(sweep)
    job = Job(number, plan.swept_overrides(hydra.overrides.task), began=time.time())
    job.write(sweep)
    say(sweep, plan, job)
    try:
        settle_strings(cfg)
        value = in_processes(cfg) if wants_processes(cfg) else task(cfg)
        job.end(sweep, "done", value=value)
    except KeyboardInterrupt:
        stop(sweep, job, "stopped before the run began", 130)
    except Exception as error:
        code = getattr(error, "exit_code", 1)
        if code >= 128:
            stop(sweep, job, str(error), code)
        if user_message(error, plan.command) is None:  # a bug, which deserves its traceback
            traceback.print_exception(error)
        start_logging(None)  # the log of a run that never was is gone
        before = "as when the sweep ran before: " if isinstance(error, FailedBefore) else ""
        job.end(sweep, "failed", error=before + one_line_message(error, plan.command))
    say(sweep, plan, job)
    return job.value


def follow_job(task: Callable[[DictConfig], Any], cfg: DictConfig) -> None:
    """Run the task beside the first process, which reports for all."""
    try:
        settle_strings(cfg)
        task(cfg)
    except UserError as error:
        if error.exit_code >= 128:
            sys.exit(error.exit_code)


def stop(sweep: Path, job: Job, message: str, code: int) -> None:
    """End the whole sweep."""
    job.end(sweep, "stopped")
    again = command(SweepPlan.read(sweep).command, "-m", assignment("sweep.resume", sweep))
    exit_with_error(f"{message}. The sweep goes on with: {again}", code)


def say(sweep: Path, plan: SweepPlan, job: Job) -> None:
    """A line of what became of this job, and how far the sweep is."""
    of = f" of {plan.count}" if plan.count else ""
    words = " ".join(job.overrides)
    if job.ended is None:
        what = "begins"
    elif job.state == "failed":
        what = f"failed: {job.error}"
    else:
        value = f": {job.value:.5g}" if isinstance(job.value, float) else ""
        what = f"done in {format_duration(job.ended - job.began)}{value}"
    print(f"[job {job.number}{of}] {words}  {what}{how_far(sweep, plan)}", flush=True)


def wants_processes(cfg: DictConfig) -> bool:
    """Whether the job trains in several processes, which nobody has started yet."""
    trainer = cfg.get("trainer")
    several = trainer is not None and (trainer.devices != 1 or trainer.num_nodes > 1)
    return several and cluster_environment() is None


def in_processes(cfg: DictConfig) -> Any:
    """Run the job as a command of its own, from which Lightning can start others, and whose end ends none but it.

    Raises:
        UserError: where it failed, or was stopped.
    """
    setup, hydra = setup_run(cfg), HydraConfig.get()
    if setup.finished:
        return setup.result()
    run, words = setup.run, [word for word in hydra.overrides.task if not read(word).key.startswith("sweep.")]
    words += [assignment("hydra.sweep.dir", hydra.sweep.dir), assignment("hydra.run.dir", run.path)]
    words += ["hydra.mode=RUN", "auto_resume=true"]
    child = subprocess.Popen([sys.executable, "-m", "src.train", *words])
    before = signal.signal(signal.SIGTERM, lambda number, frame: child.send_signal(number))
    try:
        code = wait(child)
    finally:
        signal.signal(signal.SIGTERM, before)
    if code:
        reason = run.metadata().get("failed") or f"it ended with exit code {code}; its messages stand above"
        raise UserError(reason, exit_code=code if code > 128 else 1)
    return setup.result()


def wait(child: subprocess.Popen) -> int:
    """The exit code of a process that Ctrl-C reaches as it does this one."""
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue

"""One job of a sweep, in the process that its launcher has started."""

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
from src.runs.sweep import Job, SweepPlan, SweepProgress
from src.utils.console import format_duration, start_logging
from src.utils.errors import UserError
from src.utils.override_syntax import assignment, command, read
from src.utils.paths import resolve_strings
from src.utils.processes import cluster_environment, is_worker_rank

sweep_progress = SweepProgress()  # one per process


def run_job(task: Callable[[DictConfig], Any], cfg: DictConfig) -> Any:
    """Run the task; if it fails, write the error to the sweep folder and let the other jobs run.

    Returns:
        The result of the task, or None if it failed.
    """
    hydra = HydraConfig.get()
    if is_worker_rank():
        return follow_job(task, cfg)
    sweep, number = Path(hydra.sweep.dir), int(hydra.job.num)
    plan = SweepPlan.read(sweep)
    job = Job(number, plan.swept_overrides(hydra.overrides.task), began=time.time())
    job.write(sweep)
    print_status(sweep, plan, job)
    try:
        resolve_strings(cfg)
        value = run_subprocess(cfg) if needs_subprocess(cfg) else task(cfg)
        job.end(sweep, "done", value=value)
    except KeyboardInterrupt:
        abort(sweep, job, "interrupted before the run began", 130)
    except Exception as error:
        code = getattr(error, "exit_code", 1)
        if code >= 128:
            abort(sweep, job, str(error), code)
        if user_message(error, plan.command) is None:  # a bug
            traceback.print_exception(error)
        start_logging(None)  # the log file of a run that was not created is gone
        before = "failed in an earlier start of the sweep: " if isinstance(error, FailedBefore) else ""
        job.end(sweep, "failed", error=before + one_line_message(error, plan.command))
    print_status(sweep, plan, job)
    return job.value


def follow_job(task: Callable[[DictConfig], Any], cfg: DictConfig) -> None:
    """Run the task in a worker process; rank zero writes the status."""
    try:
        resolve_strings(cfg)
        task(cfg)
    except UserError as error:
        if error.exit_code >= 128:
            sys.exit(error.exit_code)


def abort(sweep: Path, job: Job, message: str, code: int) -> None:
    """Mark the job as stopped and end the whole sweep."""
    job.end(sweep, "stopped")
    again = command(SweepPlan.read(sweep).command, "-m", assignment("sweep.resume", sweep))
    exit_with_error(f"{message}. Resume the sweep with: {again}", code)


def print_status(sweep: Path, plan: SweepPlan, job: Job) -> None:
    """Print the job's status and the sweep's progress."""
    of = f" of {plan.count}" if plan.count else ""
    overrides = " ".join(job.overrides)
    if job.ended is None:
        status = "begins"
    elif job.state == "failed":
        status = f"failed: {job.error}"
    else:
        value = f": {job.value:.5g}" if isinstance(job.value, float) else ""
        status = f"done in {format_duration(job.ended - job.began)}{value}"
    print(f"[job {job.number}{of}] {overrides}  {status}{sweep_progress(sweep, plan)}", flush=True)


def needs_subprocess(cfg: DictConfig) -> bool:
    """Return True if the job trains in several processes that are not started yet."""
    trainer = cfg.get("trainer")
    several = trainer is not None and (trainer.devices != 1 or trainer.num_nodes > 1)
    return several and cluster_environment() is None


def run_subprocess(cfg: DictConfig) -> Any:
    """Run the job as a separate command, which Lightning can start on several devices and which may exit.

    Raises:
        UserError: if it failed or was stopped.
    """
    setup, hydra = setup_run(cfg), HydraConfig.get()
    if setup.finished:
        return setup.result()
    run, overrides = setup.run, [text for text in hydra.overrides.task if not read(text).key.startswith("sweep.")]
    overrides += [assignment("hydra.sweep.dir", hydra.sweep.dir), assignment("hydra.run.dir", run.path)]
    overrides += ["hydra.mode=RUN", "auto_resume=true"]
    child = subprocess.Popen([sys.executable, "-m", "src.train", *overrides])
    before = signal.signal(signal.SIGTERM, lambda number, frame: child.send_signal(number))
    try:
        code = wait(child)
    finally:
        signal.signal(signal.SIGTERM, before)
    if code:
        reason = run.metadata().get("failed") or f"it ended with exit code {code}; its messages are above"
        raise UserError(reason, exit_code=code if code > 128 else 1)
    return setup.result()


def wait(child: subprocess.Popen) -> int:
    """Wait for a process, which receives Ctrl-C itself, and return its exit code."""
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue

"""A Hydra callback around the jobs of a sweep, for any sweeper and launcher."""

import traceback
from math import isfinite
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from src.commands.cli import user_errors, user_message
from src.commands.sweep.plugins import prepare
from src.runs.sweep import Job, SweepPlan, is_sweep, read_jobs, remove_job_files
from src.utils.errors import UserError
from src.utils.folders import check_empty, check_named, remove_if_empty
from src.utils.override_syntax import assignment, command, read
from src.utils.processes import decide_on_rank_zero, is_worker_rank


class Sweep(Callback):
    """Resolve the folder of a sweep before the first job, and print the results after the last."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Create the sweep folder, which holds the plan and the status of the jobs."""
        try:
            with user_errors(config.hydra.job.config_name):
                self.start(config)
        except Exception as error:  # Hydra would only warn
            traceback.print_exception(error)
            raise SystemExit(1) from error

    def start(self, config: DictConfig) -> None:
        """Resolve the folder and write the plan into it, or print the plan of a dry run."""
        folder = decide_on_rank_zero("sweep", lambda: resolve_sweep_dir(config.hydra.sweep.dir))
        with open_dict(config.hydra):
            config.hydra.sweep.dir = folder
            # The config of each job is composed from these overrides.
            config.hydra.overrides.hydra.append(assignment("hydra.sweep.dir", folder))
        if config.sweep.dry_run:
            from src.commands.sweep.dry_run import dry_run_text

            remove_if_empty(Path(folder))
            print(dry_run_text(config, make_plan(config).jobs))
            raise SystemExit(0)
        prepare(config)
        if is_worker_rank():
            return
        plan = make_plan(config)
        if (saved := Path(folder) / "multirun.yaml").is_dir():  # Hydra writes it, after the jobs are forgotten
            raise UserError(f"{saved} must be a file, got a folder; remove or rename it")
        remove_job_files(Path(folder))
        plan.write(Path(folder))
        many = f"{plan.count} jobs" if plan.count else "jobs"
        print(f"A sweep of {many} over {', '.join(plan.swept) or 'nothing'} in {folder}", flush=True)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print the table of all jobs, the best one and the failed ones."""
        if is_worker_rank():
            return
        sweep = Path(config.hydra.sweep.dir)
        plan, jobs = SweepPlan.read(sweep), read_jobs(sweep)
        notes = print_table(sweep) if plan.command == "train" else []
        highest = config.hydra.sweeper.get("direction") == "maximize"
        lines = summary_lines(sweep, plan, jobs, OmegaConf.select(config, "sweep.objective"), notes, highest)
        print("\n".join(lines), flush=True)
        if any(job.state != "done" for job in jobs) or len(jobs) < (plan.count or 0):
            raise SystemExit(1)


def resolve_sweep_dir(name: Any) -> str:
    """Return the absolute path of the sweep folder.

    Raises:
        UserError: if the name is empty, or the folder holds files of something other than a sweep.
    """
    check_named("hydra.sweep.dir", name)
    folder = Path(name).absolute()
    if not is_sweep(folder):
        check_empty("hydra.sweep.dir", folder)
    return str(folder)


def make_plan(config: DictConfig) -> SweepPlan:
    """Expand the overrides of a sweep to its jobs; a search chooses them later."""
    hydra = config.hydra
    overrides = list(hydra.overrides.task)
    params = [f"{name}={value}" for name, value in (hydra.sweeper.get("params") or {}).items()]
    last = {override.key: override for override in map(read, [*params, *overrides])}
    swept = [key for key, override in last.items() if override.sweeps]
    jobs: list[list[str]] = []
    count = hydra.sweeper.get("n_trials")
    if hydra.sweeper._target_.endswith("BasicSweeper"):
        (jobs,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides([*params, *overrides]), None)
        count = len(jobs)
    hydra_overrides = [
        word for word in hydra.overrides.hydra if read(word).key not in ("hydra.sweep.dir", "hydra.mode")
    ]
    return SweepPlan(hydra.job.config_name, overrides, hydra_overrides, swept, jobs, count)


def print_table(sweep: Path) -> list[str]:
    """Run `python -m src.compare sweep_dir=FOLDER`; return the settings that make the losses incomparable."""
    from src.commands.compare.command import choose
    from src.commands.compare.run_comparison import RunComparison
    from src.commands.compare.table import loss_differs

    try:
        comparison = choose(
            compose("compare", [assignment("sweep_dir", sweep), assignment("out", sweep / "comparison")])
        )
        assert isinstance(comparison, RunComparison)
        comparison.sample()
        comparison.write()
        return loss_differs(comparison.records)
    except Exception as error:  # Hydra would only warn
        if (message := user_message(error, "compare")) is None:
            traceback.print_exc()
        else:  # such as for a single run
            print(f"No table: {message}")
    return []


def summary_lines(
    sweep: Path, plan: SweepPlan, jobs: list[Job], objective: object, losses_differ: list[str], highest: bool = False
) -> list[str]:
    """The best job, the failed ones with their errors, and the command to type next.

    Args:
        sweep, plan, jobs: the folder, plan and jobs of the sweep.
        objective: name or names of the results that the jobs return.
        losses_differ: settings that make the losses incomparable.
        highest: True if the highest result is the best.
    """
    again = command(plan.command, "-m", assignment("sweep.resume", sweep))
    done = [job for job in jobs if job.state == "done"]
    valued = [job for job in done if isinstance(job.value, float) and isfinite(job.value)]
    lines = [f"{len(done)} of {plan.count or len(jobs)} jobs done in {sweep}"]
    if len(valued) > 1 and losses_differ and "loss" in str(objective):
        hint = "callbacks=quality sweep.objective=quality/frechet_distance (of images)"
        lines.append(f"no best job: losses for different {' and '.join(losses_differ)} cannot be compared; use {hint}")
    elif len(valued) > 1:
        best = (max if highest else min)(valued, key=lambda job: job.value or 0.0)
        which = f"{'highest' if highest else 'lowest'} {objective or 'first metric'}"
        lines.append(f"{which}: {best.value:.5g}, job {best.number}, {' '.join(best.overrides)}")
    failed = [job for job in jobs if job.state == "failed"]
    lines += [f"failed: job {job.number}, {' '.join(job.overrides)}: {job.error}" for job in failed]
    if failed:
        lines.append(f"Run the failed jobs again with: {again} sweep.retry=true")
    elif len(done) < (plan.count or 0):
        lines.append(f"Resume with: {again}")
    return lines

"""What happens around the jobs of a sweep: a Hydra callback, whatever sweeper and launcher are chosen."""

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
from src.runs.sweep import Job, SweepPlan, forget_jobs, is_sweep, read_jobs
from src.utils.folders import check_empty, check_named, remove_if_empty
from src.utils.override_syntax import assignment, command, read
from src.utils.processes import decide_on_rank_zero, is_worker_rank


class Sweep(Callback):
    """Settles the folder of a sweep before the first job, and says what came out after the last."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """All jobs write to the one folder, in which the plan and what becomes of the jobs are kept."""
        try:
            with user_errors(config.hydra.job.config_name):
                self.start(config)
        except Exception as error:  # of which Hydra would make a warning, and go on
            traceback.print_exception(error)
            raise SystemExit(1) from error

    def start(self, config: DictConfig) -> None:
        """Settle the folder, and write the plan into it; of a dry run show it."""
        folder = decide_on_rank_zero("sweep", lambda: settle_folder(config.hydra.sweep.dir))
        with open_dict(config.hydra):
            config.hydra.sweep.dir = folder
            # The config of each job is composed from these words anew.
            config.hydra.overrides.hydra.append(assignment("hydra.sweep.dir", folder))
        if config.sweep.dry_run:
            from src.commands.sweep.dry_run import describe

            remove_if_empty(Path(folder))
            print(describe(config, planned(config).jobs))
            raise SystemExit(0)
        prepare(config)
        if is_worker_rank():
            return
        plan = planned(config)
        forget_jobs(Path(folder))
        plan.write(Path(folder))
        many = f"{plan.count} jobs" if plan.count else "jobs"
        print(f"A sweep of {many} over {', '.join(plan.swept) or 'nothing'} in {folder}", flush=True)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """The table of all jobs, the best one, and those that failed."""
        if is_worker_rank():
            return
        sweep = Path(config.hydra.sweep.dir)
        plan, jobs = SweepPlan.read(sweep), read_jobs(sweep)
        notes = print_table(sweep) if plan.command == "train" else []
        highest = config.hydra.sweeper.get("direction") == "maximize"
        said = closing(sweep, plan, jobs, OmegaConf.select(config, "sweep.objective"), notes, highest)
        print("\n".join(said), flush=True)
        if any(job.state != "done" for job in jobs) or len(jobs) < (plan.count or 0):
            raise SystemExit(1)


def settle_folder(name: Any) -> str:
    """The folder of a sweep: a new or an empty one, or one of a sweep as it was.

    Raises:
        UserError: where it is neither, or has no name.
    """
    check_named("hydra.sweep.dir", name)
    folder = Path(name).absolute()
    if not is_sweep(folder):
        check_empty("hydra.sweep.dir", folder)
    return str(folder)


def planned(config: DictConfig) -> SweepPlan:
    """What the words of a sweep stand for."""
    hydra = config.hydra
    words = list(hydra.overrides.task)
    params = [f"{name}={value}" for name, value in (hydra.sweeper.get("params") or {}).items()]
    last = {word.key: word for word in map(read, [*params, *words])}  # which of a setting counts
    swept = [key for key, word in last.items() if word.sweeps]
    jobs: list[list[str]] = []
    count = hydra.sweeper.get("n_trials")
    if hydra.sweeper._target_.endswith("BasicSweeper"):
        (jobs,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides([*params, *words]), None)
        count = len(jobs)
    hydra_overrides = [
        word for word in hydra.overrides.hydra if read(word).key not in ("hydra.sweep.dir", "hydra.mode")
    ]
    return SweepPlan(hydra.job.config_name, words, hydra_overrides, swept, jobs, count)


def print_table(sweep: Path) -> list[str]:
    """What `python -m src.compare sweep_dir=FOLDER` shows; returns in what settings the losses of the runs differ."""
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
    except Exception as error:  # which Hydra would make a warning of, and the exit code forget
        if (message := user_message(error, "compare")) is None:
            traceback.print_exc()
        else:  # such as that one run alone cannot be compared
            print(f"No table: {message}")
    return []


def closing(
    sweep: Path, plan: SweepPlan, jobs: list[Job], objective: object, losses_differ: list[str], highest: bool = False
) -> list[str]:
    """The best job, those that failed and why, and what to type next.

    Args:
        sweep, plan, jobs: what there is.
        objective: the name, or names, of what the jobs return.
        losses_differ: the settings that make it meaningless to compare losses.
        highest: whether the best is the highest.
    """
    again = command(plan.command, "-m", assignment("sweep.resume", sweep))
    done = [job for job in jobs if job.state == "done"]
    valued = [job for job in done if isinstance(job.value, float) and isfinite(job.value)]
    lines = [f"{len(done)} of {plan.count or len(jobs)} jobs done in {sweep}"]
    if len(valued) > 1 and losses_differ and "loss" in str(objective):
        hint = "callbacks=quality sweep.objective=quality/frechet_distance (of images)"
        lines.append(f"no best one: losses cannot be compared over {' and '.join(losses_differ)}; {hint} can")
    elif len(valued) > 1:
        best = (max if highest else min)(valued, key=lambda job: job.value or 0.0)
        which = f"{'highest' if highest else 'lowest'} {objective or 'first metric'}"
        lines.append(f"{which}: {best.value:.5g}, job {best.number}, {' '.join(best.overrides)}")
    failed = [job for job in jobs if job.state == "failed"]
    lines += [f"failed: job {job.number}, {' '.join(job.overrides)}: {job.error}" for job in failed]
    if failed:
        lines.append(f"Try those again with: {again} sweep.retry=true")
    elif len(done) < (plan.count or 0):
        lines.append(f"Go on with: {again}")
    return lines

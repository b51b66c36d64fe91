"""Comparison of runs: from their folders to tables, plots and a page."""

from collections.abc import Sequence
from math import inf
from operator import itemgetter
from pathlib import Path

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from src.commands.compare import evaluations as quality
from src.commands.compare import run_plots as pictures
from src.commands.compare import table
from src.commands.compare.records import RunRecord, check_same_data, find_runs, find_sweep
from src.commands.compare.report import Report
from src.commands.compare.samples import SampledRun, sample_run
from src.commands.compare.settings import differences
from src.runs.folders import new_folder
from src.utils.console import progress_bar
from src.utils.errors import UserError
from src.utils.folders import check_out

MAX_COLUMNS = 8  # of a table with a column for each run
EVALUATE = "python -m src.evaluate run=RUN"


class RunComparison:
    """A comparison of the settings and results of runs.

    Attributes:
        cfg: the settings of this command.
        records: the runs.
        missing: messages on missing or unfinished runs.
        sampled: samples of the runs from the same noise, by name; set by `sample`.
        shown, implied: the settings that identify the runs, and settings implied by them.
        groups: the rows of the table.
        evaluations: the evaluation of each run.
        not_comparable: why the evaluations are not comparable; None if they are.
        best: the rows that are shown in the pictures.
    """

    def __init__(self, cfg: DictConfig, records: list[RunRecord], missing: list[str]):
        self.cfg, self.records, self.missing = cfg, records, missing
        self.sampled: dict[str, SampledRun] = {}
        self.shown, self.implied = differences([r.config for r in records], [r.overrides() for r in records])
        self.groups = table.group_runs(records, self.shown, self.implied)
        self.evaluations, self.not_comparable = quality.comparable(records)
        self.metric = None if self.not_comparable else pictures.main_metric(self.evaluations)
        self.best = self.ranked()[: cfg.max_rows]

    @classmethod
    def prepare(cls, cfg: DictConfig) -> "RunComparison":
        """Find and read the runs.

        Raises:
            UserError: for missing runs, or runs that are not comparable.
        """
        if cfg.sweep_dir is not None:
            records, missing = find_sweep(str(cfg.sweep_dir))
        else:
            names = list(cfg.runs) if OmegaConf.is_list(cfg.runs) else [cfg.runs]
            records, missing = find_runs(names, cfg.paths.outputs), []
        check_same_data(records, cfg.allow_different_data)
        check_out(parent_of(cfg) if cfg.out is None else str(cfg.out))
        return cls(cfg, records, missing)

    def sample(self) -> None:
        """Draw a few samples from each run with a checkpoint; sample i starts from the same noise in all of them."""
        ready = [r for g in self.best for r in g.records if r.has_checkpoint] if self.cfg.n_shown else []
        ready, settings = ready[: self.cfg.max_rows], compose("sample")
        with progress_bar(len(ready), "runs sampled", unit="run", leave=False, delay=2) as bar:
            for record in ready:
                try:
                    self.sampled[record.name] = sample_run(record, self.cfg, settings)
                except (UserError, ValueError) as error:
                    self.missing.append(f"Run {record.name} has no samples: {error}.")
                bar.update()

    def write(self) -> None:
        """Write the table, the plots and the page."""
        out = Path(str(self.cfg.out)) if self.cfg.out is not None else Path(new_folder(parent_of(self.cfg)))
        report = Report(out, f"{len(self.records)} runs compared")
        nfe = [self.sampled[r.name].nfe if r.name in self.sampled else None for r in self.records]
        columns = table.result_columns(self.groups, self.evaluations, self.not_comparable is None, nfe)
        rows = [[self.evaluations[i] for i in g.places] for g in self.groups]
        more = table.metric_columns(rows, quality.metric_names(self.evaluations), self.not_comparable is None)
        heads, titles = [g.head for g in self.groups], [c.title for c in columns]
        numbers = table.as_csv(heads, [*columns, *(c for c in more if c.title not in titles)])
        report.main_table(table.lines(heads, [c for c in columns if not c.constant]), numbers)
        report.notes([*self.notes(), *table.constant_columns(columns)])
        pictures.add_samples(report, {self.label(name): sampled for name, sampled in self.sampled.items()})
        pictures.add_curves(report, self.groups, self.best)
        pictures.add_cost_plots(report, self.groups, self.best, self.evaluations, self.metric)
        pictures.add_settings(report, self.groups, columns, self.ranked_by)
        if more:
            report.table("All metrics", self.by_group([(c.title, c.cells) for c in more]))
        if self.implied:
            cells = [(s.key, [s.values[g.places[0]] for g in self.groups]) for s in self.implied]
            report.table(
                "Implied settings", self.by_group(cells), "Settings that are implied by those of the first table."
            )
        report.write()

    def by_group(self, rows: Sequence[tuple[str, list[str]]]) -> list[list[str]]:
        """A table with one column for each row of the main table, or transposed if there are many."""
        table = [["", *(g.name for g in self.groups)], *([title, *cells] for title, cells in rows)]
        return table if len(self.groups) <= MAX_COLUMNS else [list(row) for row in zip(*table, strict=True)]

    def ranked(self) -> list[table.RunGroup]:
        """The rows from best to worst; in their own order if neither metrics nor losses are comparable."""
        if self.metric:
            key = self.metric[0]
            found = [quality.metric_estimate(key, [self.evaluations[i] for i in g.places]) for g in self.groups]
            sign = -1 if quality.direction(key, self.evaluations) == "higher" else 1
        elif table.loss_differs(self.records):
            return list(self.groups)
        else:
            found, sign = [table.aggregate(g, table.val_loss) for g in self.groups], 1
        order = [inf if e is None else sign * e.mean for e in found]
        return [g for _, g in sorted(zip(order, self.groups, strict=True), key=itemgetter(0))]

    @property
    def ranked_by(self) -> str:
        """The title of the column that the rows are ranked by."""
        return self.metric[1] if self.metric else "val loss"

    def notes(self) -> list[str]:
        """Notes on missing runs and on what is not comparable."""
        notes = list(self.missing)
        if len(self.best) < len(self.groups):
            by = "" if table.loss_differs(self.records) and not self.metric else f", the best by {self.ranked_by}"
            notes.append(f"Pictures show {len(self.best)} of {len(self.groups)} rows{by}; max_rows=N shows more.")
        if what := table.loss_differs(self.records):
            notes.append(f"Losses are not comparable: the runs differ in {' and '.join(what)}.")
        if self.not_comparable:
            notes.append(f"Metrics are not comparable: the evaluations have {self.not_comparable}.")
        without = [r.name for r, e in zip(self.records, self.evaluations, strict=True) if e is None]
        if len(without) == len(self.records):
            notes.append(f"No run has been evaluated; run {EVALUATE} for metrics of its samples.")
        elif without:
            notes.append(f"No comparable evaluation: {', '.join(without)}; run {EVALUATE}.")
        samplers = {r.name: quality.sampler_name(e) for r, e in zip(self.records, self.evaluations, strict=True) if e}
        if len(set(samplers.values())) > 1:
            names = ", ".join(f"{run}: {sampler}" for run, sampler in samplers.items())
            notes.append(f"The evaluations use different samplers: {names}.")
        for record in self.records:
            if warning := record.facts.get("data_warning"):
                notes.append(f"Run {record.name}: {warning}")
        return notes

    def label(self, name: str) -> str:
        """The label of a run in pictures: its settings, and its seed if only that identifies it."""
        group, record = next((g, r) for g in self.best for r in g.records if r.name == name)
        return f"{group.name}, seed {record.seed}" if len(group.records) > 1 else group.name


def parent_of(cfg: DictConfig) -> str:
    """The parent of the default output folder."""
    return f"{cfg.paths.outputs}/compare"

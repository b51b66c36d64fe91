"""Runs side by side: from their folders to a table, plots and a page."""

from collections.abc import Sequence
from math import inf
from operator import itemgetter
from pathlib import Path

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from src.commands.compare import evaluations as quality
from src.commands.compare import run_plots as pictures
from src.commands.compare import table
from src.commands.compare.records import Record, check_data, find_runs, find_sweep
from src.commands.compare.report import Report
from src.commands.compare.samples import Drawn, draw
from src.commands.compare.settings import differences
from src.runs.folders import new_folder
from src.utils.console import progress_bar
from src.utils.errors import UserError
from src.utils.folders import check_out

COLUMNS = 8  # of a table that has one for each run
EVALUATE = "python -m src.evaluate run=RUN"


class RunComparison:
    """What differs between runs, and what came out.

    Attributes:
        cfg: the settings of this command.
        records: the runs.
        missing: what there should be and is not, a line each.
        drawn: samples of the runs from the same noise, by name; set by `sample`.
        shown, following: the settings that tell the runs apart, and those that follow from them.
        groups: the rows of the table.
        evaluations: of each run, to be compared unless `apart` says why not.
    """

    def __init__(self, cfg: DictConfig, records: list[Record], missing: list[str]):
        self.cfg, self.records, self.missing = cfg, records, missing
        self.drawn: dict[str, Drawn] = {}
        self.shown, self.following = differences([r.config for r in records], [r.overrides() for r in records])
        self.groups = table.group(records, self.shown, self.following)
        self.evaluations, self.apart = quality.comparable(records)
        self.metric = None if self.apart else pictures.main_metric(self.evaluations)
        self.best = self.ranked()[: cfg.max_rows]

    @classmethod
    def prepare(cls, cfg: DictConfig) -> "RunComparison":
        """Find the runs and read them.

        Raises:
            UserError: where there is nothing to compare, or what should not be compared.
        """
        if cfg.sweep_dir is not None:
            records, missing = find_sweep(str(cfg.sweep_dir))
        else:
            names = list(cfg.runs) if OmegaConf.is_list(cfg.runs) else [cfg.runs]
            records, missing = find_runs(names, cfg.paths.outputs), []
        check_data(records, cfg.allow_different_data)
        check_out(parent_of(cfg) if cfg.out is None else str(cfg.out))
        return cls(cfg, records, missing)

    def sample(self) -> None:
        """Draw the same few samples from each run that has a checkpoint: sample i of all begins at the same noise."""
        ready = [r for g in self.best for r in g.records if r.has_checkpoint] if self.cfg.n_shown else []
        ready, settings = ready[: self.cfg.max_rows], compose("sample")
        with progress_bar(len(ready), "runs sampled", unit="run", leave=False, delay=2) as bar:
            for record in ready:
                try:
                    self.drawn[record.name] = draw(record, self.cfg, settings)
                except (UserError, ValueError) as error:
                    self.missing.append(f"Run {record.name} gave no samples: {error}.")
                bar.update()

    def write(self) -> None:
        """Write the table, the plots and the page, and say so."""
        out = Path(str(self.cfg.out)) if self.cfg.out is not None else Path(new_folder(parent_of(self.cfg)))
        report = Report(out, f"{len(self.records)} runs compared")
        nfe = [self.drawn[r.name].nfe if r.name in self.drawn else None for r in self.records]
        columns = table.outcomes(self.groups, self.evaluations, self.apart is None, nfe)
        rows = [[self.evaluations[i] for i in g.places] for g in self.groups]
        more = table.metrics(rows, quality.metric_names(self.evaluations), self.apart is None)
        heads, titles = [g.head for g in self.groups], [c.title for c in columns]
        numbers = table.as_csv(heads, [*columns, *(c for c in more if c.title not in titles)])
        report.main_table(table.lines(heads, [c for c in columns if not c.constant]), numbers)
        report.notes([*self.notes(), *table.the_same(columns)])
        pictures.samples(report, {self.label(name): drawn for name, drawn in self.drawn.items()})
        pictures.curves(report, self.groups, self.best)
        pictures.fronts(report, self.groups, self.best, self.evaluations, self.metric)
        pictures.settings(report, self.groups, columns, self.ranked_by)
        if more:
            report.table("All metrics", self.by_group([(c.title, c.cells) for c in more]))
        if self.following:
            cells = [(s.key, [s.values[g.places[0]] for g in self.groups]) for s in self.following]
            report.table("What else differs", self.by_group(cells), "It follows from the settings of the first table.")
        report.write()

    def by_group(self, rows: Sequence[tuple[str, list[str]]]) -> list[list[str]]:
        """A table with a column for each row of the first one; where there are many of them with a row for each."""
        table = [["", *(g.name for g in self.groups)], *([title, *cells] for title, cells in rows)]
        return table if len(self.groups) <= COLUMNS else [list(row) for row in zip(*table, strict=True)]

    def ranked(self) -> list[table.Group]:
        """The rows, the best first; as they are where losses cannot be compared and nothing else is known."""
        if self.metric:
            key = self.metric[0]
            found = [quality.estimate(key, [self.evaluations[i] for i in g.places]) for g in self.groups]
            sign = -1 if quality.direction(key, self.evaluations) == "higher" else 1
        elif table.loss_differs(self.records):
            return list(self.groups)
        else:
            found, sign = [table.over(g, table.val_loss) for g in self.groups], 1
        order = [inf if e is None else sign * e.mean for e in found]
        return [g for _, g in sorted(zip(order, self.groups, strict=True), key=itemgetter(0))]

    @property
    def ranked_by(self) -> str:
        """The title of the column by which rows are ranked."""
        return self.metric[1] if self.metric else "val loss"

    def notes(self) -> list[str]:
        """What has to be known to read the numbers."""
        notes = list(self.missing)
        if len(self.best) < len(self.groups):
            by = "" if table.loss_differs(self.records) and not self.metric else f", the best by {self.ranked_by}"
            notes.append(f"Pictures show {len(self.best)} of {len(self.groups)} rows{by}; max_rows=N shows more.")
        if what := table.loss_differs(self.records):
            notes.append(f"Losses cannot be compared: the runs differ in {' and '.join(what)}.")
        if self.apart:
            notes.append(f"Metrics cannot be compared: the evaluations have {self.apart}.")
        without = [r.name for r, e in zip(self.records, self.evaluations, strict=True) if e is None]
        if len(without) == len(self.records):
            notes.append(f"No run has been evaluated yet; {EVALUATE} adds metrics of its samples.")
        elif without:
            notes.append(f"Not evaluated like the others: {', '.join(without)}; {EVALUATE} does it.")
        samplers = {r.name: quality.sampler_name(e) for r, e in zip(self.records, self.evaluations, strict=True) if e}
        if len(set(samplers.values())) > 1:
            told = ", ".join(f"{run} by {sampler}" for run, sampler in samplers.items())
            notes.append(f"The evaluated samples are from different samplers: {told}.")
        for record in self.records:
            if warning := record.facts.get("data_warning"):
                notes.append(f"Run {record.name}: {warning}")
        return notes

    def label(self, name: str) -> str:
        """A run in pictures: what tells it from the others, and its seed where only that does."""
        group, record = next((g, r) for g in self.best for r in g.records if r.name == name)
        return f"{group.name}, seed {record.seed}" if len(group.records) > 1 else group.name


def parent_of(cfg: DictConfig) -> str:
    """Where the folder of a comparison is made that has not been given one."""
    return f"{cfg.paths.outputs}/compare"

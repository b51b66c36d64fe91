"""Samplers side by side on one checkpoint: every sampler at every number of steps, measured alike."""

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from src.commands.cli import choices, suggest, to_container
from src.commands.compare import evaluations as quality
from src.commands.compare import run_plots as run_pictures
from src.commands.compare import table
from src.commands.compare.evaluations import Evaluation
from src.commands.compare.records import read_json
from src.commands.compare.report import Report
from src.commands.compare.table import Outcome
from src.commands.sampling import inherit_run_config
from src.diffusion.conditions import NoCondition
from src.plots.side_by_side import how_many, side_by_side
from src.runs.run import Run
from src.statistics.significance import Estimate
from src.utils.atomic import write_json
from src.utils.console import log, progress_bar
from src.utils.errors import UserError
from src.utils.files import read_arrays
from src.utils.folders import check_out
from src.utils.override_syntax import read

SHOWN = 1000  # samples, of which pictures take what they have room for
ADVICE = "Delete its folder, and give the same command again"
KEPT = "metrics.json"  # in the folder of a cell: what src.evaluate says, and what was asked for; written last
PASSED_ON = ("run", "ckpt", "weights", "n", "seed", "batch_size", "device", "precision")


class Cell(NamedTuple):
    """One way of sampling.

    Attributes:
        sampler: its name in conf/sampler.
        steps: how many it takes.
        scale: of classifier-free guidance; None for the run's own guidance.
    """

    sampler: str
    steps: int
    scale: float | None

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.sampler}_{self.steps}" + ("" if self.scale is None else f"_guidance_{self.scale:g}")

    @property
    def series(self) -> str:
        """What it has in common with cells of other steps."""
        return self.sampler if self.scale is None else f"{self.sampler}, guidance {self.scale:g}"

    @property
    def guidance(self) -> dict[str, str]:
        """Its column in the table, if any."""
        return {} if self.scale is None else {"guidance": f"{self.scale:g}"}

    @property
    def words(self) -> tuple[str, ...]:
        """The overrides of src.evaluate, but for the steps."""
        guidance = () if self.scale is None else ("guidance=cfg", f"guidance.scale={self.scale}")
        return f"sampler={self.sampler}", *guidance


class SamplerGrid:
    """One checkpoint, sampled and measured in every way that is asked for.

    Attributes:
        cfg: the settings of this command.
        run: the run folder.
        cells: the ways.
        out: where each has a folder, which is left alone when the command is repeated.
        found: what was measured; set by `sample`.
        refused: why there is nothing of the others.
    """

    def __init__(self, cfg: DictConfig, run: Run, cells: list[Cell]):
        self.cfg, self.run, self.cells = cfg, run, cells
        out = cfg.out if cfg.out is not None else run.path / "comparisons" / "samplers"
        self.out = Path(str(out))
        check_out(self.out)
        self.found: dict[Cell, Evaluation] = {}
        self.refused: dict[Cell, str] = {}
        self.composed: dict[tuple[str, ...], DictConfig] = {}
        self.like: Any = None  # the last evaluation, whose data and features the next one uses again

    @classmethod
    def prepare(cls, cfg: DictConfig) -> "SamplerGrid":
        """Check the settings.

        Raises:
            UserError: for every mistake in them.
        """
        run = Run.find(str(cfg.run), cfg.paths.outputs)
        cfg.run = str(run.path)
        run.checkpoint(cfg.ckpt)
        samplers, steps, scales = (listed(cfg[key]) for key in ("samplers", "steps", "guidance_scales"))
        there = choices("sampler")
        for name in samplers:
            if name not in there:
                hint = suggest(str(name), there)
                raise UserError(f"samplers: there is no sampler {name}.{hint} Choices: {', '.join(there)}")
        if scales and isinstance(instantiate(run.config().condition), NoCondition):
            raise UserError(
                f"guidance_scales={scales}: {run.path} was trained without a condition; leave guidance_scales= out"
            )
        # Cheap ones first, so that there is something to see soon.
        ways = product(sorted(set(steps)), dict.fromkeys(scales or [None]), dict.fromkeys(samplers))
        return cls(cfg, run, [Cell(sampler, k, scale) for k, scale, sampler in ways])

    def sample(self) -> None:
        """Draw and measure every cell that is not there yet.

        Raises:
            UserError: where not one of them can be, with the first reason.
        """
        self.found = {cell: evaluation for cell in self.cells if (evaluation := self.kept(cell))}
        if self.found:
            log.info(f"{len(self.found)} of {len(self.cells)} combinations are measured already, in {self.out}")
        todo = [cell for cell in self.cells if cell not in self.found]
        bar = progress_bar(len(self.cells), "combinations", initial=len(self.found), leave=False, delay=2)
        with bar:
            for cell in todo:
                try:
                    self.found[cell] = self.measure(cell)
                except (UserError, ValueError) as error:
                    self.refused[cell] = str(error)
                except KeyboardInterrupt as stop:
                    kept = f"{len(self.found)} of {len(self.cells)} combinations are measured and kept in {self.out}"
                    raise UserError(f"stopped; {kept}. The same command goes on from there", 130) from stop
                bar.update()
        if not self.found:
            raise UserError(next(iter(self.refused.values())))

    def measure(self, cell: Cell) -> Evaluation:
        """Draw and measure one cell, and keep it.

        Raises:
            UserError: where the sampler does not take so many steps, or nothing can be said of what it made.
        """
        from src.commands import evaluation  # and with it Lightning

        one = evaluation.Evaluation.prepare(*self.config(cell), like=self.like)
        context = one.draw()
        found = one.record(context, one.compute_metrics(context)) | {"asked": self.asked(cell)}
        self.like = one
        write_json(self.out / cell.name / KEPT, found)
        return found

    def kept(self, cell: Cell) -> Evaluation | None:
        """What was measured before of this cell, if it was asked for with these very settings."""
        file = self.out / cell.name / KEPT
        found = read_json(file) if file.is_file() else None
        return found if found and found.get("asked") == self.asked(cell) else None

    def config(self, cell: Cell) -> tuple[DictConfig, set[str]]:
        """The config of src.evaluate for a cell, in all else as the run itself samples, and the keys that it names."""
        named = {read(word).key for word in cell.words}
        if cell.words not in self.composed:  # which takes a while, and is the same for all numbers of steps
            self.composed[cell.words] = self.compose(cell.words, named)
        cfg = copy.deepcopy(self.composed[cell.words])
        cfg.sampler.steps, cfg.out = cell.steps, str(self.out / cell.name)
        return cfg, named | {"sampler.steps"}

    def compose(self, words: tuple[str, ...], named: set[str]) -> DictConfig:
        """The config of src.evaluate with a sampler, and a guidance."""
        trained = self.run.config()
        metrics = "distances" if len(trained.data.size) == 2 else "sliced_wasserstein"
        cfg = compose("evaluate", [*words, f"metrics=[{metrics}]"])
        with open_dict(cfg):
            cfg.update({key: self.cfg[key] for key in PASSED_ON})
        inherit_run_config(cfg, trained, named)
        return cfg

    def asked(self, cell: Cell) -> dict[str, Any]:
        """All that the numbers of a cell depend on."""
        cfg, _ = self.config(cell)
        keys = ("sampler", "guidance", "weights", "n", "seed", "precision", "metrics", "features")
        return {key: to_container(cfg).get(key) for key in keys} | {"checkpoint": self.checkpoint_hash}

    @cached_property
    def checkpoint_hash(self) -> str:
        """Of the file, so that a run that went on is measured anew."""
        return sha256(self.run.checkpoint(self.cfg.ckpt).read_bytes()).hexdigest()

    def write(self) -> None:
        """Write the table, the plots and the page, and say so."""
        report = Report(self.out, f"Samplers on {self.run.path.name}")
        cells = [cell for cell in self.cells if cell in self.found]
        evaluations = [self.found[cell] for cell in cells]
        main, all_ = quality.main_names(evaluations), quality.metric_names(evaluations)
        heads = [{"sampler": c.sampler, "steps": str(c.steps), **c.guidance} for c in cells]
        every = outcomes(evaluations, all_)
        report.main_table(table.lines(heads, outcomes(evaluations, main)), table.as_csv(heads, every))
        report.notes(
            [self.about(), *(f"Left out: {c.series} in {c.steps} steps; {why}." for c, why in self.refused.items())]
        )
        metric = run_pictures.main_metric(evaluations)
        if metric:
            points = [(cell.series, e) for cell, e in zip(cells, evaluations, strict=True)]
            run_pictures.add_fronts(report, points, *metric, joined=True)
        self.add_samples(report, cells)
        if len(all_) > len(main):
            report.table("All metrics", table.lines(heads, every))
        report.write()

    def add_samples(self, report: Report, cells: Sequence[Cell]) -> None:
        """The first samples of every sampler, a picture for each number of steps."""
        report.section("Samples")
        for steps in dict.fromkeys(cell.steps for cell in cells):
            files = {c.series: self.out / c.name / "samples.npz" for c in cells if c.steps == steps}
            first = {
                name: torch.from_numpy(read_arrays(file, {"x": "f"}, ADVICE)["x"][:SHOWN])
                for name, file in files.items()
            }
            shown = how_many(next(iter(first.values())), self.found[cells[0]]["n"])
            picture = side_by_side(first, self.run.metadata().get("kind"))
            report.picture(f"samples_{steps}_steps", picture, f"From the same noise in {steps} steps{shown}.")

    def about(self) -> str:
        """What all cells have in common."""
        one = next(iter(self.found.values()))
        weights = "averaged" if one["weights"] == "ema" else one["weights"]
        said = [
            f"{one['n']:,} samples each, from the noise of seed {one['seed']}",
            f"{weights} weights of {one['ckpt']}.ckpt",
        ]
        return f"{'; '.join([*said, *([one['features']] if one['features'] else [])])}."


def outcomes(evaluations: Sequence[Evaluation], names: Mapping[str, str]) -> list[Outcome]:
    """The columns of a table with these metrics."""
    nfe = Outcome("nfe", [Estimate((e["nfe"],)) for e in evaluations])
    seconds = Outcome("s per 1,000", [Estimate((quality.seconds_per_thousand(e),)) for e in evaluations], "lower")
    return [*table.metrics([[e] for e in evaluations], names), nfe, seconds]


def listed(value: Any) -> list[Any]:
    """A list of one or of several; none of None."""
    return [] if value is None else list(value) if OmegaConf.is_list(value) else [value]

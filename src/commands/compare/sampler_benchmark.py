"""Benchmark of samplers on one checkpoint: every sampler at every number of steps, with the same metrics."""

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

from src.commands.acceleration import DEFAULTS, changed_settings
from src.commands.cli import choices, suggest, to_container
from src.commands.compare import evaluations as quality
from src.commands.compare import run_plots as run_pictures
from src.commands.compare import table
from src.commands.compare.evaluations import Evaluation
from src.commands.compare.records import read_metrics_json
from src.commands.compare.report import Report
from src.commands.compare.table import Column
from src.commands.sampling_setup import inherit_run_config, own_sampler
from src.commands.sources import own_folders
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

MAX_LOADED = 1000  # samples for the pictures
ADVICE = "Delete its folder and repeat the command"
RESULT_FILE = "metrics.json"  # in the folder of a combination: the evaluation and the request; written last
DEFAULT, OF_FLOW_MAP = ["ddpm", "ddim", "dpmpp_2m", "heun"], "flow_map"
PASSED_ON = ("run", "ckpt", "weights", "n", "seed", "batch_size", "device", "precision", *DEFAULTS)


class Combination(NamedTuple):
    """A sampler with its settings.

    Attributes:
        sampler: name in conf/sampler.
        steps: number of sampling steps.
        scale: scale of classifier-free guidance; None for the guidance of the run.
    """

    sampler: str
    steps: int
    scale: float | None

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.sampler}_{self.steps}" + ("" if self.scale is None else f"_guidance_{self.scale:g}")

    @property
    def series(self) -> str:
        """The name shared by all numbers of steps."""
        return self.sampler if self.scale is None else f"{self.sampler}, guidance {self.scale:g}"

    @property
    def guidance(self) -> dict[str, str]:
        """The guidance column of the table, if any."""
        return {} if self.scale is None else {"guidance": f"{self.scale:g}"}

    @property
    def overrides(self) -> tuple[str, ...]:
        """The overrides of src.evaluate, without the steps."""
        guidance = () if self.scale is None else ("guidance=cfg", f"guidance.scale={self.scale}")
        return f"sampler={self.sampler}", *guidance


class SamplerBenchmark:
    """A benchmark of samplers on one checkpoint.

    Attributes:
        cfg: the settings of this command.
        run: the run folder.
        combinations: the samplers with their settings.
        out: the output folder, with a folder for each combination that a repeated command reuses.
        results: the evaluations; set by `sample`.
        skipped: why the other combinations have no evaluation.
    """

    def __init__(self, cfg: DictConfig, run: Run, combinations: list[Combination]):
        self.cfg, self.run, self.combinations = cfg, run, combinations
        out = cfg.out if cfg.out is not None else run.path / "comparisons" / "samplers"
        self.out = Path(str(out))
        check_out(self.out)
        self.results: dict[Combination, Evaluation] = {}
        self.skipped: dict[Combination, str] = {}
        self.composed: dict[tuple[str, ...], DictConfig] = {}
        self.reference: Any = None  # the data and features, read by the first evaluation

    @classmethod
    def prepare(cls, cfg: DictConfig) -> "SamplerBenchmark":
        """Check the settings.

        Raises:
            UserError: for every mistake in them.
        """
        run = Run.find(str(cfg.run), cfg.paths.outputs)
        cfg.run = str(run.path)
        run.checkpoint(cfg.ckpt)
        samplers, steps, scales = (listed(cfg[key]) for key in ("samplers", "steps", "guidance_scales"))
        own = {file.stem for folder in own_folders() for file in (folder / "sampler").glob("*.yaml")}
        there = sorted({*choices("sampler"), *own})
        trained = run.config()
        samplers = samplers or [*([OF_FLOW_MAP] if trained.get("flow_map") else []), *DEFAULT]
        for name in samplers:
            if name not in there:
                hint = suggest(str(name), there)
                raise UserError(f"samplers: there is no sampler {name}.{hint} Choices: {', '.join(there)}")
        if scales and isinstance(instantiate(trained.condition), NoCondition):
            raise UserError(
                f"guidance_scales={scales}: {run.path} was trained without a condition; leave guidance_scales= out"
            )
        # Cheap combinations first, for early results.
        ways = product(sorted(set(steps)), dict.fromkeys(scales or [None]), dict.fromkeys(samplers))
        return cls(cfg, run, [Combination(sampler, k, scale) for k, scale, sampler in ways])

    def sample(self) -> None:
        """Evaluate every combination that is not cached.

        Raises:
            UserError: if none of them can be evaluated, with the first reason.
        """
        self.results = {
            combination: evaluation for combination in self.combinations if (evaluation := self.cached(combination))
        }
        if self.results:
            log.info(
                f"{len(self.results)} of {len(self.combinations)} combinations are already evaluated in {self.out}"
            )
        todo = [combination for combination in self.combinations if combination not in self.results]
        bar = progress_bar(len(self.combinations), "combinations", initial=len(self.results), leave=False, delay=2)
        with bar:
            for combination in todo:
                try:
                    self.results[combination] = self.evaluate(combination)
                except (UserError, ValueError) as error:
                    self.skipped[combination] = str(error)
                except KeyboardInterrupt as stop:
                    done = f"{len(self.results)} of {len(self.combinations)} combinations are saved in {self.out}"
                    raise UserError(f"stopped; {done}. Repeat the command to continue", 130) from stop
                bar.update()
        if not self.results:
            raise UserError(next(iter(self.skipped.values())))

    def evaluate(self, combination: Combination) -> Evaluation:
        """Evaluate a combination, and save the result.

        Raises:
            UserError: for a sampler that does not support this number of steps, or unusable samples.
        """
        from src.commands import evaluation  # and with it Lightning

        one = evaluation.Evaluation.prepare(*self.config(combination), reference=self.reference)
        context = one.draw()
        found = one.record(context, one.compute_metrics(context)) | {"request": self.request(combination)}
        self.reference = context.reference
        write_json(self.out / combination.name / RESULT_FILE, found)
        return found

    def cached(self, combination: Combination) -> Evaluation | None:
        """The saved evaluation of a combination, if it had the same request; else None."""
        file = self.out / combination.name / RESULT_FILE
        found = read_metrics_json(file) if file.is_file() else None
        return found if found and found.get("request") == self.request(combination) else None

    def config(self, combination: Combination) -> tuple[DictConfig, set[str]]:
        """The config of src.evaluate for a combination, with the sampling settings of the run, and its keys."""
        named = {read(word).key for word in combination.overrides}
        if combination.overrides not in self.composed:  # slow, and the same for all numbers of steps
            self.composed[combination.overrides] = self.compose(combination.overrides, named)
        cfg = copy.deepcopy(self.composed[combination.overrides])
        cfg.sampler.steps, cfg.out = combination.steps, str(self.out / combination.name)
        return cfg, named | {"sampler.steps"}

    def compose(self, words: tuple[str, ...], named: set[str]) -> DictConfig:
        """Compose the config of src.evaluate with a sampler and a guidance."""
        trained = self.run.config()
        kind = self.run.metadata().get("kind") or ("images" if len(trained.data.size) == 2 else None)
        distance = "distances" if kind == "images" else "sliced_wasserstein"
        cfg = compose("evaluate", [*words, f"metrics=[{distance},pixels]"])
        with open_dict(cfg):
            cfg.update({key: self.cfg[key] for key in PASSED_ON})
        inherit_run_config(cfg, trained, named - own_sampler(cfg, trained))
        return cfg

    def request(self, combination: Combination) -> dict[str, Any]:
        """Everything that the evaluation of a combination depends on."""
        cfg, _ = self.config(combination)
        keys = ("sampler", "guidance", "weights", "n", "seed", "precision", "metrics", "features")
        return (
            {key: to_container(cfg).get(key) for key in keys}
            | changed_settings(cfg)
            | {"checkpoint": self.checkpoint_hash}
        )

    @cached_property
    def checkpoint_hash(self) -> str:
        """The hash of the checkpoint: a run that was continued is evaluated again."""
        return sha256(self.run.checkpoint(self.cfg.ckpt).read_bytes()).hexdigest()

    def write(self) -> None:
        """Write the table, the plots and the page."""
        report = Report(self.out, f"Samplers on {self.run.path.name}")
        combinations = [combination for combination in self.combinations if combination in self.results]
        evaluations = [self.results[combination] for combination in combinations]
        main, all_ = quality.main_names(evaluations), quality.metric_names(evaluations)
        heads = [{"sampler": c.sampler, "steps": str(c.steps), **c.guidance} for c in combinations]
        every = benchmark_columns(evaluations, all_)
        report.main_table(table.lines(heads, benchmark_columns(evaluations, main)), table.as_csv(heads, every))
        report.notes(
            [self.about(), *(f"Skipped: {c.series} in {c.steps} steps; {why}." for c, why in self.skipped.items())]
        )
        metric = run_pictures.main_metric(evaluations)
        if metric:
            points = [(combination.series, e) for combination, e in zip(combinations, evaluations, strict=True)]
            run_pictures.plot_against_cost(report, points, *metric, joined=True)
        scaled = [(f"{c.sampler} {c.steps}", c.scale, self.results[c]) for c in combinations if c.scale is not None]
        run_pictures.plot_over_guidance(report, scaled)
        self.add_samples(report, combinations)
        if len(all_) > len(main):
            report.table("All metrics", table.lines(heads, every))
        report.write()

    def add_samples(self, report: Report, combinations: Sequence[Combination]) -> None:
        """Add the first samples of every sampler, with one picture for each number of steps."""
        report.section("Samples")
        for steps in dict.fromkeys(combination.steps for combination in combinations):
            files = {c.series: self.out / c.name / "samples.npz" for c in combinations if c.steps == steps}
            first = {
                name: torch.from_numpy(read_arrays(file, {"x": "f"}, ADVICE)["x"][:MAX_LOADED])
                for name, file in files.items()
            }
            shown = how_many(next(iter(first.values())), self.results[combinations[0]]["n"])
            picture = side_by_side(first, self.run.metadata().get("kind"))
            report.picture(f"samples_{steps}_steps", picture, f"From the same noise in {steps} steps{shown}.")

    def about(self) -> str:
        """The settings shared by all combinations."""
        one = next(iter(self.results.values()))
        weights = "averaged" if one["weights"] == "ema" else one["weights"]
        parts = [
            f"{one['n']:,} samples each, from the noise of seed {one['seed']}",
            f"{weights} weights of {one['ckpt']}.ckpt",
        ]
        return f"{'; '.join([*parts, *([one['features']] if one['features'] else [])])}."


def benchmark_columns(evaluations: Sequence[Evaluation], names: Mapping[str, str]) -> list[Column]:
    """The columns of the table, one for each metric, and the cost."""
    nfe = Column("nfe", [Estimate((e["nfe"],)) for e in evaluations])
    seconds = Column("s per 1,000", [Estimate((quality.seconds_per_thousand(e),)) for e in evaluations], "lower")
    return [*table.metric_columns([[e] for e in evaluations], names), nfe, seconds]


def listed(value: Any) -> list[Any]:
    """Return a value as a list; an empty one for None."""
    return [] if value is None else list(value) if OmegaConf.is_list(value) else [value]

"""Evaluate a run: draw samples, compute metrics, write metrics.json and a report."""

from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, open_dict

from src.commands.acceleration import changed_settings
from src.commands.cli import to_container
from src.commands.inputs import load_data
from src.commands.metric_checks import check_counts, empty_section, is_applicable, unusable, without_samples
from src.commands.out_of_memory import metric_memory
from src.commands.sampling import Sampling, arrays_of
from src.diffusion.conditions import Combined, FromData
from src.diffusion.time_samplers import FixedTimeSampler
from src.metrics.base import EvalContext, Metric, ReportSection
from src.metrics.features.base import ReferenceData
from src.metrics.human import HumanEvaluation, write_questions
from src.metrics.report import write_report
from src.runs.loading import kind_and_units
from src.runs.run import SAMPLING_GROUPS, Run
from src.samplers.pipeline import Cost
from src.tasks.base import check_shape
from src.utils.atomic import atomic_write, write_json
from src.utils.checkpoints import load_checkpoint
from src.utils.console import key_value_table, log, progress_bar, start_logging, tolerating
from src.utils.errors import UserError, config_errors
from src.utils.files import Damaged, read_arrays
from src.utils.folders import check_out, make_out
from src.utils.paths import check_writable
from src.utils.sample_files import read_samples

MAX_FRAMES = 40  # frames of a trajectory that are saved


class Evaluation:
    """An evaluation of a run.

    Attributes:
        cfg: the settings of the command.
        sampling: the sampling from the run.
        context: the input of the metrics; `draw` adds the samples.
        metrics: by name.
    """

    def __init__(self, cfg: DictConfig, sampling: Sampling, context: EvalContext, metrics: dict[str, Metric]):
        self.cfg, self.sampling, self.context, self.metrics = cfg, sampling, context, metrics

    # ---- before ----

    @classmethod
    def prepare(cls, cfg: DictConfig, named: set[str], reference: ReferenceData | None = None) -> "Evaluation":
        """Check the settings, load the model and read the data.

        Args:
            cfg: the settings of the command.
            named: the keys on the command line; of the others the run's own settings are used, if it has them.
            reference: the data to compare with; by default those of the run.

        Raises:
            UserError: for every mistake in the settings.
        """
        start_logging(None)  # the run's config, read next, may say that its own code runs
        with open_dict(cfg):
            cfg.gif = "trajectory" in cfg.metrics and cfg.samples_path is None
            if asks_of_test_data(cfg):
                cfg.condition = {"rows": "test"}
        sampling = Sampling.prepare(cfg, named)
        trained = sampling.run.config()
        check_out(cfg.out or sampling.run.path / "evaluations")
        x = given_samples(cfg, trained)
        if reference is None:
            reference = ReferenceData(load_data(trained.data, sampling.run), instantiate(cfg.features))
        x = None if x is None else reference.data.to_units(x)
        pipeline = sampling.pipeline
        context = EvalContext(
            x=torch.zeros(0, *pipeline.shape) if x is None else x,
            cond=None if x is not None else pipeline.cond,
            reference=reference,
            pipeline=pipeline,
            run=sampling.run,
            from_file=x is not None,
            seed=cfg.seed,
            n=cfg.n if x is None else len(x),
            paired=x is None and (cfg.get("condition") or {}).get("rows") == "test",
        )
        with config_errors("metrics"):
            metrics: dict[str, Metric] = {name: instantiate(node) for name, node in cfg.metrics.items()}
        if get_object(trained.time_sampler._target_) is FixedTimeSampler and x is None:
            metrics = without_samples(metrics, "metrics" in named, cfg.human)
        check_counts(metrics, context)
        fitting = {name: m for name, m in metrics.items() if is_applicable(name, m, context, "metrics" in named)}
        evaluation = cls(cfg, sampling, context, fitting)
        evaluation.add_human_evaluation()
        return evaluation

    def add_human_evaluation(self) -> None:
        """Check human=, and read the file of answers that it names.

        Raises:
            UserError: if people cannot judge such data, or the answers cannot be used.
        """
        human = self.cfg.human
        if human not in (None, False) and self.context.kind not in HumanEvaluation.kinds:
            raise UserError(
                f"human={human} is for {' and '.join(HumanEvaluation.kinds)}: nobody can judge a single point"
            )
        if isinstance(human, str):
            self.metrics["human"] = HumanEvaluation(human, self.key)
        elif human not in (None, False, True):
            raise UserError(f"human must be true or a file of people's answers, got {human}")

    # ---- the work ----

    def draw(self) -> EvalContext:
        """Add the samples to the context: new ones, or those of an earlier evaluation with the same settings."""
        context = self.context
        if context.from_file or not self.needs_samples:
            return context
        file = self.samples_file
        kept = read_samples_file(file, self.key)
        if kept is None or (self.cfg.gif and "trajectory" not in kept):
            kept = self.draw_new()
            make_out(file.parent)
            with atomic_write(file) as partial:
                np.savez(partial, **kept, key=np.array(self.key))  # type: ignore[arg-type]
        else:
            log.info(f"the samples are those in {file}, drawn with the same settings")
        context.x, context.cost = torch.from_numpy(kept["x"]), Cost()
        context.cost.evaluations, context.cost.seconds = (
            round(kept["nfe"].item() * len(context.x)),
            kept["seconds"].item(),
        )
        if "trajectory" in kept:
            context.trajectory = torch.from_numpy(kept["trajectory"]).float()
        return context

    def draw_new(self) -> dict[str, np.ndarray]:
        """New samples in the units of the data, with their network evaluations and seconds."""
        result = self.sampling.draw()
        cost, to_units = self.sampling.cost, self.context.data.to_units
        kept: dict[str, Any] = {
            "x": to_units(result.x).float().numpy(),
            "nfe": np.float64(cost.evaluations / len(result.x)),
        }
        kept["seconds"] = np.float64(cost.seconds)
        kept |= arrays_of(self.sampling.pipeline.denoiser.condition, result.cond)
        if result.trajectory is not None:
            path = result.trajectory
            frames = torch.linspace(0, len(path) - 1, min(MAX_FRAMES, len(path))).round().long()
            kept["trajectory"] = to_units(path[frames]).half().numpy()
        return kept

    def compute_metrics(self, context: EvalContext) -> dict[str, ReportSection]:
        """Compute every metric."""
        sections = {}
        with progress_bar(len(self.metrics), "metrics", unit="metric", leave=False, delay=2) as bar:
            for name, metric in self.metrics.items():
                bar.set_postfix_str(name, refresh=False)  # which would show a bar that nothing removes
                errors = config_errors(f"metrics.{name}", (ValueError,))
                with tolerating(f"metrics.{name}", but=UserError), errors, metric_memory(name, self.metrics):
                    lost = unusable(context.x) if metric.needs_samples else None
                    sections[name] = empty_section(name, lost) if lost else metric(context)
                bar.update()
        if not sections and self.metrics:
            raise UserError("none of the metrics could be computed")
        return sections

    # ---- after ----

    def write(self, context: EvalContext, sections: dict[str, ReportSection]) -> None:
        """Write metrics.json, the pictures, report.html and TensorBoard's scalars, and print the metrics."""
        make_out(self.out)
        record = self.record(context, sections)
        write_report(self.out, record, sections)
        write_json(self.out / "metrics.json", record)  # last: if it exists, the other files do, too
        self.write_scalars(sections)
        rows = [(v.name, v.text) for s in sections.values() for v in s.values.values()]
        rows += [row for s in sections.values() for row in s.headline.items()]
        if self.cfg.human is True:
            write_questions(context, self.out / "human.html", self.key)
            rows.append(("for people", f"{self.out / 'human.html'}; then human=FILE.csv, what it exports"))
        if not context.from_file and len(context.x):
            rows.append(("samples", str(self.samples_file)))
        warnings = [note for s in sections.values() for note in s.notes if note.startswith("WARNING")]
        notes = [("", note) for note in dict.fromkeys(warnings)]
        log.info(f"\n{key_value_table([*rows, *notes, ('report', str(self.out / 'report.html'))])}")

    def record(self, context: EvalContext, sections: dict[str, ReportSection]) -> dict[str, Any]:
        """The content of metrics.json."""
        plain, cost = to_container(self.cfg), context.cost
        data = context.reference.data
        used = vars(context.reference).get("features")
        return {
            "run": str(context.run.path),
            "name": context.run.metadata().get("name"),
            "samples_path": self.cfg.samples_path,
            "ckpt": plain["ckpt"],
            "weights": plain["weights"],
            "key": self.key,
            "n": len(context.x),
            "seed": plain["seed"],
            "label": plain["label"],
            "condition": plain.get("condition") or None,
            **{part: plain[part] for part in SAMPLING_GROUPS},
            "precision": plain["precision"],
            "features": None if used is None else used.name,
            "data": context.run.data_id_of(data.identity().get("files")),
            "data_warning": data.warning,
            "nfe": None if cost is None else cost.evaluations / max(1, len(context.x)),
            "seconds": None if cost is None else cost.seconds,
            "metrics": {k: v.to_dict() for s in sections.values() for k, v in s.values.items()},
            "headlines": {k: v for s in sections.values() for k, v in s.headline.items()},
            "tables": {k: v for s in sections.values() for k, v in s.tables.items()},
        }

    def write_scalars(self, sections: dict[str, ReportSection]) -> None:
        """Write the metrics as TensorBoard scalars eval/... of the run, at the step of the checkpoint."""
        from torch.utils.tensorboard import SummaryWriter

        try:
            check_writable("run", self.context.run.path)
        except UserError as error:
            log.warning(f"WARNING: TensorBoard does not show these values beside the curves of the run: {error}")
            return
        file = self.sampling.file
        assert file is not None
        step = load_checkpoint(file, mmap=True)["global_step"] if file.is_file() else None
        with SummaryWriter(str(self.context.run.path), filename_suffix=".eval") as writer:
            for section in sections.values():
                for name, value in section.values.items():
                    if isfinite(value.value):
                        writer.add_scalar(f"eval/{name}", value.value, step)

    @property
    def out(self) -> Path:
        """The output folder; by default one named after the settings, so that others do not overwrite it."""
        if self.cfg.out is not None:
            return Path(str(self.cfg.out))
        cfg, sampler = self.cfg, self.sampling.pipeline.sampler
        drawn = "given" if cfg.samples_path is not None else f"{type(sampler).__name__.lower()}_{sampler.steps}"
        what = f"{drawn}_n_{self.context.n}" if self.needs_samples else "without_samples"
        settings = hashed(to_container(cfg.metrics), to_container(cfg.features))
        return self.folder / f"{what}_seed_{cfg.seed}_{hashed(self.key, settings)}"

    @property
    def folder(self) -> Path:
        """The folder of all evaluations of the run."""
        return self.context.run.path / "evaluations"

    @property
    def samples_file(self) -> Path:
        """The file of the samples, which evaluations with other metrics share."""
        return self.out / "samples.npz" if self.cfg.out is not None else self.folder / f"samples_{self.key}.npz"

    @property
    def needs_samples(self) -> bool:
        """True if the evaluation needs samples."""
        return self.cfg.human is True or any(metric.needs_samples for metric in self.metrics.values())

    @property
    def key(self) -> str:
        """A hash of everything that the samples depend on."""
        cfg = to_container(self.cfg)
        settings = [
            cfg[k] for k in ("n", "seed", "label", "weights", "precision", "samples_path", "device", *SAMPLING_GROUPS)
        ]
        settings += [cfg["condition"]] if cfg.get("condition") else []
        settings += changed_settings(self.cfg).items()
        file = self.sampling.file
        assert file is not None
        settings += [file.name, file.stat().st_mtime_ns]  # a resumed run has other weights under the same name
        return hashed(*settings)


def asks_of_test_data(cfg: DictConfig) -> bool:
    """True if no condition is asked for, and that of the run comes with the data: then those of the test data are."""
    if cfg.get("condition") or cfg.get("label") is not None or cfg.samples_path is not None or cfg.run is None:
        return False
    kind = get_object(Run.find(str(cfg.run), cfg.paths.outputs).config().condition._target_)
    return isinstance(kind, type) and issubclass(kind, FromData | Combined)


def hashed(*settings: Any) -> str:
    """A hash of six letters of some settings."""
    return sha256(repr(settings).encode()).hexdigest()[:6]


def given_samples(cfg: DictConfig, trained: DictConfig) -> torch.Tensor | None:
    """The samples of samples_path=, (N, C, *S) in the units of the model; None without samples_path=.

    Raises:
        UserError: if they cannot be read, or do not have the shape of the data.
    """
    if cfg.samples_path is None:
        return None
    shape = (trained.data.channels, *trained.data.size)
    space = kind_and_units(Run(Path(trained.paths.run)), shape)
    return check_shape(read_samples(Path(str(cfg.samples_path)), shape, "samples_path", *space), shape, "samples_path")


def read_samples_file(file: Path, key: str) -> dict[str, np.ndarray] | None:
    """The samples of an earlier evaluation, if their file exists and has this key."""
    if not file.is_file():
        return None
    try:
        kept = read_arrays(file, {"x": "f", "nfe": "fi", "seconds": "fi", "key": "U"}, "New samples are drawn")
    except Damaged as damage:
        log.warning(str(damage))
        return None
    return kept if kept["key"] == key else None


def metric_values(names: Any, sections: dict[str, ReportSection]) -> Any:
    """The metric of a name, or the metrics of a list of names; by default the first metric of which lower is better.

    Raises:
        UserError: if there is no metric of that name.
    """
    values = {name: value for section in sections.values() for name, value in section.values.items()}
    if names is None:
        return next((value.value for value in values.values() if value.better == "lower"), None)
    for name in [names] if isinstance(names, str) else names:
        if name not in values:
            raise UserError(f"sweep.objective={name}: there is no such metric here. Choices: {', '.join(values)}")
    return values[names].value if isinstance(names, str) else [values[name].value for name in names]

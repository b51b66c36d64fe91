"""One evaluation of a run: from its folder to the figures and the report."""

import json
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, open_dict

from src.commands.cli import to_container
from src.commands.inputs import load_data
from src.commands.sampling import Sampling
from src.diffusion.time_samplers import FixedTimeSampler
from src.metrics.base import NOT_AVAILABLE, Measure, Section, Subject
from src.metrics.features.base import Reference
from src.metrics.human import Human, write_questions
from src.metrics.report import write_report
from src.runs.run import SAMPLING_GROUPS
from src.samplers.pipeline import Cost
from src.tasks.base import check_shape
from src.utils.atomic import whole
from src.utils.checkpoints import load_checkpoint
from src.utils.console import log, progress_bar, table
from src.utils.errors import UserError, config_errors
from src.utils.files import Damaged, read_arrays
from src.utils.folders import check_out, make_out
from src.utils.paths import check_writable
from src.utils.sample_files import read_samples

FRAMES = 40  # of a trajectory are kept


class Evaluation:
    """A run that is measured.

    Attributes:
        cfg: the settings of this command.
        sampling: how its samples are drawn.
        subject: what is measured; its samples come with `draw`.
        measures: by name.
    """

    def __init__(self, cfg: DictConfig, sampling: Sampling, subject: Subject, measures: dict[str, Measure]):
        self.cfg, self.sampling, self.subject, self.measures = cfg, sampling, subject, measures

    # ---- before ----

    @classmethod
    def prepare(cls, cfg: DictConfig, named: set[str], like: "Evaluation | None" = None) -> "Evaluation":
        """Check the settings, rebuild the model and read the data.

        Args:
            cfg: the settings.
            named: those of them that were asked for; the others are the run's own, where it has them.
            like: another evaluation of the same data, whose data and features are used again.

        Raises:
            UserError: for every mistake in them.
        """
        with open_dict(cfg):
            cfg.gif = "trajectory" in cfg.metrics and cfg.samples_path is None
        sampling = Sampling.prepare(cfg, named)
        trained = sampling.run.config()
        check_out(cfg.out or sampling.run.path / "evaluations")
        x = given_samples(cfg, trained)
        reference = (
            like.subject.reference
            if like
            else Reference(load_data(trained.data, sampling.run), instantiate(cfg.features))
        )
        x = None if x is None else reference.data.to_units(x)
        pipeline = sampling.pipeline
        subject = Subject(
            x=torch.zeros(0, *pipeline.shape) if x is None else x,
            label=None if x is not None else pipeline.cond,
            reference=reference,
            pipeline=pipeline,
            run=sampling.run,
            given=x is not None,
            seed=cfg.seed,
            n=cfg.n if x is None else len(x),
        )
        with config_errors("metrics"):
            measures: dict[str, Measure] = {name: instantiate(node) for name, node in cfg.metrics.items()}
        if get_object(trained.time_sampler._target_) is FixedTimeSampler and x is None:
            measures = without_samples(measures, "metrics" in named, cfg.human)
        check_counts(measures, subject)
        fitting = {name: m for name, m in measures.items() if is_applicable(name, m, subject, "metrics" in named)}
        evaluation = cls(cfg, sampling, subject, fitting)
        evaluation.ask_people()
        return evaluation

    def ask_people(self) -> None:
        """Check human=, and read the answers that it names.

        Raises:
            UserError: where nobody can be asked of such data, or there is something wrong with the answers.
        """
        human = self.cfg.human
        if human not in (None, False) and self.subject.kind not in Human.kinds:
            raise UserError(f"human={human} is for {' and '.join(Human.kinds)}: nobody can judge a single point")
        if isinstance(human, str):
            self.measures["human"] = Human(human, self.key)
        elif human not in (None, False, True):
            raise UserError(f"human={human} is neither true nor the file of people's answers")

    # ---- the work ----

    def draw(self) -> Subject:
        """The samples: drawn, or those of an earlier evaluation with the same settings."""
        subject = self.subject
        if subject.given or not self.needs_samples:
            return subject
        file = self.samples_file
        kept = read_kept(file, self.key)
        if kept is None or (self.cfg.gif and "trajectory" not in kept):
            kept = self.draw_anew()
            make_out(file.parent)
            with whole(file) as partial:
                np.savez(partial, **kept, key=np.array(self.key))  # type: ignore[arg-type]
        else:
            log.info(f"the samples are those in {file}, drawn with the same settings")
        subject.x, subject.cost = torch.from_numpy(kept["x"]), Cost()
        subject.cost.evaluations, subject.cost.seconds = (
            round(kept["nfe"].item() * len(subject.x)),
            kept["seconds"].item(),
        )
        if "trajectory" in kept:
            subject.trajectory = torch.from_numpy(kept["trajectory"]).float()
        return subject

    def draw_anew(self) -> dict[str, np.ndarray]:
        """The samples in the units of the data, and what they took."""
        result = self.sampling.draw()
        cost, to_units = self.sampling.cost, self.subject.data.to_units
        kept: dict[str, Any] = {
            "x": to_units(result.x).float().numpy(),
            "nfe": np.float64(cost.evaluations / len(result.x)),
        }
        kept["seconds"] = np.float64(cost.seconds)
        if result.label is not None:
            kept["label"] = result.label.numpy()
        if result.trajectory is not None:
            path = result.trajectory
            frames = torch.linspace(0, len(path) - 1, min(FRAMES, len(path))).round().long()
            kept["trajectory"] = to_units(path[frames]).half().numpy()
        return kept

    def measure(self, subject: Subject) -> dict[str, Section]:
        """What each measure found."""
        sections = {}
        with progress_bar(len(self.measures), "measuring", unit="measure", leave=False, delay=2) as bar:
            for name, measure in self.measures.items():
                bar.set_postfix_str(name)
                with config_errors(f"metrics.{name}", (ValueError,)):
                    lost = unusable(subject.x) if measure.needs_samples else None
                    sections[name] = empty_section(name, lost) if lost else measure(subject)
                bar.update()
        return sections

    # ---- after ----

    def write(self, subject: Subject, sections: dict[str, Section]) -> None:
        """Write metrics.json, the pictures, report.html and TensorBoard's scalars, and say what came out."""
        make_out(self.out)
        record = self.record(subject, sections)
        write_report(self.out, record, sections)
        with whole(self.out / "metrics.json") as partial:  # the last file: where it is, the others are there too
            partial.write_text(json.dumps(record, indent=2, default=str) + "\n")
        self.write_scalars(sections)
        rows = [(v.name, v.text) for s in sections.values() for v in s.values.values()]
        if self.cfg.human is True:
            write_questions(subject, self.out / "human.html", self.key)
            rows.append(("for people", f"{self.out / 'human.html'}; then human=FILE.csv, what it exports"))
        if not subject.given and len(subject.x):
            rows.append(("samples", str(self.samples_file)))
        warnings = [note for s in sections.values() for note in s.notes if note.startswith("WARNING")]
        notes = [("", note) for note in dict.fromkeys(warnings)]
        log.info(f"\n{table([*rows, *notes, ('report', str(self.out / 'report.html'))])}")

    def record(self, subject: Subject, sections: dict[str, Section]) -> dict[str, Any]:
        """What metrics.json holds."""
        plain, cost = to_container(self.cfg), subject.cost
        data = subject.reference.data
        used = vars(subject.reference).get("features")
        return {
            "run": str(subject.run.path),
            "name": subject.run.metadata().get("name"),
            "samples_path": self.cfg.samples_path,
            "ckpt": plain["ckpt"],
            "weights": plain["weights"],
            "key": self.key,
            "n": len(subject.x),
            "seed": plain["seed"],
            "label": plain["label"],
            **{part: plain[part] for part in SAMPLING_GROUPS},
            "precision": plain["precision"],
            "features": None if used is None else used.name,
            "data": subject.run.data_id_of(data.identity().get("files")),
            "data_warning": data.warning,
            "nfe": None if cost is None else cost.evaluations / max(1, len(subject.x)),
            "seconds": None if cost is None else cost.seconds,
            "metrics": {k: v.plain() for s in sections.values() for k, v in s.values.items()},
            "tables": {k: v for s in sections.values() for k, v in s.tables.items()},
        }

    def write_scalars(self, sections: dict[str, Section]) -> None:
        """eval/... of the run, at the step of its checkpoint, beside the curves of its training."""
        from torch.utils.tensorboard import SummaryWriter

        try:
            check_writable("run", self.subject.run.path)
        except UserError as error:
            log.warning(f"WARNING: TensorBoard does not show these values beside the curves of the run: {error}")
            return
        file = self.sampling.file
        assert file is not None
        step = load_checkpoint(file, mmap=True)["global_step"] if file.is_file() else None
        with SummaryWriter(str(self.subject.run.path), filename_suffix=".eval") as writer:
            for section in sections.values():
                for name, value in section.values.items():
                    if isfinite(value.value):
                        writer.add_scalar(f"eval/{name}", value.value, step)

    @property
    def out(self) -> Path:
        """Where it is written: by default a folder named after the settings, so that they can be evaluated again."""
        if self.cfg.out is not None:
            return Path(str(self.cfg.out))
        cfg, sampler = self.cfg, self.sampling.pipeline.sampler
        drawn = "given" if cfg.samples_path is not None else f"{type(sampler).__name__.lower()}_{sampler.steps}"
        what = f"{drawn}_n_{self.subject.n}" if self.needs_samples else "without_samples"
        measured = hashed(to_container(cfg.metrics), to_container(cfg.features))
        return self.folder / f"{what}_seed_{cfg.seed}_{hashed(self.key, measured)}"

    @property
    def folder(self) -> Path:
        """Of all evaluations of the run."""
        return self.subject.run.path / "evaluations"

    @property
    def samples_file(self) -> Path:
        """Where the samples are kept; those of other measures with the same settings are the same."""
        return self.out / "samples.npz" if self.cfg.out is not None else self.folder / f"samples_{self.key}.npz"

    @property
    def needs_samples(self) -> bool:
        """Whether samples are drawn."""
        return self.cfg.human is True or any(measure.needs_samples for measure in self.measures.values())

    @property
    def key(self) -> str:
        """A hash of all that the samples depend on."""
        cfg = to_container(self.cfg)
        settings = [
            cfg[k] for k in ("n", "seed", "label", "weights", "precision", "samples_path", "device", *SAMPLING_GROUPS)
        ]
        file = self.sampling.file
        assert file is not None
        settings += [file.name, file.stat().st_mtime_ns]  # a run that went on has other weights under the same name
        return hashed(*settings)


def hashed(*settings: Any) -> str:
    """Six letters that stand for these settings."""
    return sha256(repr(settings).encode()).hexdigest()[:6]


def given_samples(cfg: DictConfig, trained: DictConfig) -> torch.Tensor | None:
    """The samples of samples_path=, (N, C, *S) in the units of the model; None where they are to be drawn.

    Raises:
        UserError: where they cannot be read, or have another shape than the data.
    """
    if cfg.samples_path is None:
        return None
    shape = (trained.data.channels, *trained.data.size)
    return check_shape(read_samples(Path(str(cfg.samples_path)), shape, "samples_path"), shape, "samples_path")


def without_samples(measures: dict[str, Measure], named: bool, human: Any) -> dict[str, Measure]:
    """Those that a plain denoiser, which cannot generate, can be measured by."""
    asked = [f"metrics={name}" for name, measure in measures.items() if measure.needs_samples and named]
    asked += [f"human={human}"] if human else []
    if asked:
        raise UserError(f"{asked[0]} wants samples, but this run is a plain denoiser, which draws none")
    return {name: measure for name, measure in measures.items() if not measure.needs_samples}


def check_counts(measures: dict[str, Measure], subject: Subject) -> None:
    """Refuse fewer samples than a measure needs, before any are drawn.

    Raises:
        UserError: naming each such measure, and how many it needs.
    """
    wanted = {name: m.least_for(subject) for name, m in measures.items() if m.needs_samples and subject.kind in m.kinds}
    short = {name: least for name, least in wanted.items() if least > subject.n}
    if short:
        needed = " and ".join(f"metrics={name} needs n >= {least}" for name, least in short.items())
        others = ",".join(name for name in measures if name not in short)
        instead = f", or metrics=[{others}]" if others else ""
        raise UserError(f"{needed}, got n={subject.n}; use n={max(short.values())} or more{instead}")


def empty_section(name: str, why: str) -> Section:
    """What stands in the place of a measure that could not be taken."""
    return Section(name.replace("_", " ").capitalize(), notes=[why])


def unusable(x: torch.Tensor) -> str | None:
    """Why nothing can be measured of samples (N, C, *S); None where all are finite."""
    lost = len(x) - int(x.isfinite().flatten(1).all(1).sum())
    if not lost:
        return None
    return (
        f"WARNING: {NOT_AVAILABLE}: {lost:,} of {len(x):,} samples hold NaN or infinite numbers. "
        "Use another sampler, more steps, precision=32 or another checkpoint"
    )


def is_applicable(name: str, measure: Measure, subject: Subject, named: bool) -> bool:
    """Whether a measure can be taken of the subject.

    Raises:
        UserError: where it cannot, but was asked for by name.
    """
    why = measure.refusal(subject)
    if why is not None and named:
        raise UserError(f"metrics={name} cannot be measured here: {why}")
    return why is None


def read_kept(file: Path, key: str) -> dict[str, np.ndarray] | None:
    """The samples of a file, where they were drawn with the settings of this key."""
    if not file.is_file():
        return None
    try:
        kept = read_arrays(file, {"x": "f", "nfe": "fi", "seconds": "fi", "key": "U"}, "New samples are drawn")
    except Damaged as damage:
        log.warning(str(damage))
        return None
    return kept if kept["key"] == key else None


def objective(names: Any, sections: dict[str, Section]) -> Any:
    """The metric of a name, or those of a list of names; by default the first of which less is better.

    Raises:
        UserError: where there is none of that name.
    """
    values = {name: value for section in sections.values() for name, value in section.values.items()}
    if names is None:
        return next((value.value for value in values.values() if value.better == "lower"), None)
    for name in [names] if isinstance(names, str) else names:
        if name not in values:
            raise UserError(f"sweep.objective={name}: no such metric was measured. There are {', '.join(values)}")
    return values[names].value if isinstance(names, str) else [values[name].value for name in names]

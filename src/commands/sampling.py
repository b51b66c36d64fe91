"""What `src.sample` does with a run: from its folder to the files that are written."""

import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from src.commands.cli import to_container
from src.commands.inputs import read_inputs
from src.commands.options import SampleOptions
from src.diffusion.conditions import Labels, NoCondition
from src.diffusion.denoiser import Denoiser
from src.plots.pictures import MAX_SHOWN, sample_grid, trajectory_frames, write_gif, write_picture
from src.plots.task_results import MAX_COMPARED, task_results
from src.runs.check_config import check_config, check_options, instantiable_nodes
from src.runs.folders import clip_bound
from src.runs.loading import build_denoiser, load_weights, read_weights
from src.runs.run import SAMPLING_GROUPS, Run
from src.samplers.pipeline import Pipeline
from src.statistics.image_quality import image_quality
from src.tasks.base import Result, Task, TaskInput
from src.tasks.generate import Generate
from src.utils.atomic import atomic_write
from src.utils.console import key_value_table, log, progress_bar, start_logging
from src.utils.errors import UserError, config_errors
from src.utils.folders import check_out, make_out
from src.utils.hardware import default_precision, physical_memory
from src.utils.sample_files import write_pictures

# The most samples in grid.png, by the shape of one: of points (C,) all, of signals (C, L) and images (C, H, W) fewer.
IN_GRID = {1: None, 2: 16, 3: 100, 4: 36}


class Sampling:
    """What is done with a run, and how.

    Attributes:
        cfg: the settings of this command.
        run: the run folder.
        pipeline: its denoiser, and how to sample from it.
        task: what to do.
        inputs: with what.
        file: the checkpoint that the weights are from, or the folder of the snapshots.
        cost: what it took; set by `draw`.
    """

    def __init__(
        self, cfg: DictConfig, run: Run, pipeline: Pipeline, task: Task, inputs: TaskInput, file: Path | None = None
    ):
        self.cfg, self.run, self.pipeline, self.task, self.inputs, self.file = cfg, run, pipeline, task, inputs, file

    @classmethod
    def prepare(cls, cfg: DictConfig, named: set[str]) -> "Sampling":
        """Check the settings, rebuild the model and read the inputs.

        Args:
            cfg: the settings.
            named: those of them that were asked for; the others are the run's own, where it has them.

        Raises:
            UserError: for every mistake in them.
        """
        start_logging(None)
        check_settings(cfg, named)
        run = Run.find(str(cfg.run), cfg.paths.outputs)
        cfg.run = str(run.path)  # for the guide of autoguidance, which is from the same run
        trained = run.config()
        inherit_run_config(cfg, trained, named)
        check_config(to_container(cfg))
        with config_errors("task"):
            task: Task = instantiate(cfg.task)
        shape = (trained.data.channels, *trained.data.size)
        if isinstance(task, Generate):
            task.keep = min(cfg.n, MAX_SHOWN[1 + len(shape)]) if cfg.gif else 0
        elif cfg.gif:
            raise UserError("gif=true shows how samples come about; it is for task=generate")
        inputs = TaskInput() if task.makes_samples else read_inputs(cfg, trained)
        n = cfg.n if task.makes_samples else inputs.n
        check_memory(n, shape)
        with config_errors("condition"):
            condition = instantiate(trained.condition)
        takes = isinstance(condition, Labels) or takes_label(to_container(cfg.guidance))
        label = labels(cfg.label, n, trained.data.num_classes if takes else 0, every=task.makes_samples)
        if label is None and isinstance(condition, NoCondition) and "guidance" in named:
            check_guidance_labels(to_container(cfg.guidance))
        weights, source = read_weights(run, cfg.ckpt, cfg.weights)
        denoiser = build_denoiser(trained)
        load_weights(denoiser, weights, source)
        denoiser = denoiser.to(resolve_device(cfg.device)).eval().requires_grad_(False)
        pipeline = build_pipeline(cfg, denoiser, shape, label)
        pipeline.class_names = run.metadata().get("classes") or []
        pipeline.kind = run.metadata().get("kind") or pipeline.kind
        return cls(cfg, run, pipeline, task, inputs, source)

    @property
    def out(self) -> Path:
        """Where it is written."""
        if self.cfg.out is not None:
            return Path(str(self.cfg.out))
        return sweep_job_dir() or self.run.path / "samples" / self.name

    def check_out(self) -> None:
        """Try to write there before anything is drawn.

        Raises:
            UserError: where that cannot be.
        """
        check_out(self.out)

    def draw(self) -> Result:
        """Do it, with a progress bar."""
        device = self.pipeline.device
        precision = default_precision(device.type) if self.cfg.precision == "auto" else str(self.cfg.precision)
        steps = self.n * (len(self.pipeline.sampler.times()) - 1)
        bar = progress_bar(steps, "sampling", unit="step", leave=False, delay=2, unit_scale=True)
        self.pipeline.on_step = bar.update
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision.startswith("bf16"))
        with bar, autocast, self.pipeline.count_nfe() as self.cost:
            return self.task(self.pipeline, self.inputs)

    @property
    def n(self) -> int:
        """How many samples are worked on."""
        return self.cfg.n if self.task.makes_samples else self.inputs.n

    def write(self, result: Result) -> None:
        """Write samples.npz and the pictures, and say so."""
        n, seconds, out = len(result.x), self.cost.seconds, self.out
        make_out(out)
        arrays: dict[str, Any] = {"x": self.pipeline.to_units(result.x).numpy().astype(np.float32)}
        arrays |= {"nfe": self.cost.evaluations / n, "seconds": seconds}
        if result.label is not None:
            arrays["label"] = result.label.numpy()
        with atomic_write(out / "samples.npz") as partial:
            np.savez(partial, **arrays)
        files = ["samples.npz", *self.write_pictures(result, out), *self.task.save(self.pipeline, result, out)]
        rows = [
            (
                "samples",
                f"{n} of shape {' x '.join(map(str, result.x.shape[1:]))} from {self.run.path} ({self.source})",
            ),
            *result.info.items(),
            *self.write_quality(result, out),
            ("cost", f"{self.cost.evaluations / n:g} evaluations each, {seconds:.1f} s, {n / seconds:.1f} samples/s"),
            ("written", f"{out}: {', '.join(files)}"),
        ]
        log.info(key_value_table(rows))

    def write_pictures(self, result: Result, out: Path) -> list[str]:
        """A grid of new samples, and on request how they came about; or a comparison with what was given."""
        if result.trajectory is not None:
            frames = trajectory_frames(self.pipeline.to_units(result.trajectory), result.label, kind=self.pipeline.kind)
            write_gif(frames, out / "trajectory.gif")
        n = len(result.x)
        if not result.comparison:
            most = IN_GRID[len(self.pipeline.shape)]
            if most is not None and result.grid_columns is not None:  # whole rows
                most = max(result.grid_columns, most // result.grid_columns * result.grid_columns)
            x = self.pipeline.to_units(result.x[:most])
            write_picture(sample_grid(x, result.grid_columns, result.label, kind=self.pipeline.kind), out / "grid.png")
            moving = [] if result.trajectory is None else [counted("trajectory.gif", result.trajectory.shape[1], n)]
            return [counted("grid.png", most or n, n), *moving]
        rows = result.comparison | {"result": result.x} | ({} if result.truth is None else {"truth": result.truth})
        shown = {name: self.pipeline.to_units(x) for name, x in rows.items()}
        write_picture(task_results(shown, self.pipeline.kind), out / "comparison.png")
        compared = counted("comparison.png", MAX_COMPARED.get(result.x.ndim, n), n)
        if self.pipeline.kind != "images":
            return [compared]
        for name, x in {"input": next(iter(result.comparison.values())), "result": result.x}.items():
            write_pictures(self.pipeline.to_units(x), out / name)
        return [compared, "input/", "result/"]

    def write_quality(self, result: Result, out: Path) -> list[tuple[str, str]]:
        """How close input and result are to the truth, where it is known; to metrics.json too."""
        if result.truth is None:
            return []
        truth = self.pipeline.to_units(result.truth)
        found = {"input": next(iter(result.comparison.values())), "result": result.x}
        quality = {
            name: image_quality(self.pipeline.to_units(x), truth, images=self.pipeline.kind == "images")
            for name, x in found.items()
        }
        (out / "metrics.json").write_text(json.dumps(quality, indent=2) + "\n")
        return [
            (name.upper(), f"{quality['input'][name]:.4g} of the input, {value:.4g} of the result")
            for name, value in quality["result"].items()
        ]

    @property
    def name(self) -> str:
        """Of the folder to write into."""
        task = HydraConfig.get().runtime.choices["task"]
        return "_".join([*([] if task == "generate" else [task]), f"{self.source}_{self.n}_seed_{self.cfg.seed}"])

    @property
    def source(self) -> str:
        """What the weights are from: a checkpoint, or the width of a rebuilt average."""
        return self.cfg.ckpt if isinstance(self.cfg.weights, str) else f"width_{self.cfg.weights:g}"


def counted(picture: str, most: int, n: int) -> str:
    """The name of a picture, and of how many samples it shows so many, where these are not all."""
    return picture if most >= n else f"{picture} ({most:,} of {n:,} shown)"


def check_settings(cfg: DictConfig, named: set[str]) -> None:
    """Refuse settings that are wrong whatever the run."""
    if cfg.run is None:
        raise UserError("run=RUN is needed: a run folder, or run=latest")
    check_options(to_container(cfg), SampleOptions)
    if not isinstance(cfg.weights, str) and "ckpt" in named:
        raise UserError(f"weights={cfg.weights} is rebuilt from snapshots of the whole run; leave ckpt= out")


def check_memory(n: int, shape: tuple[int, ...]) -> None:
    """Refuse more samples than fit in memory, where they are kept until they are written.

    Raises:
        UserError: naming how many would fit.
    """
    memory, each = physical_memory(), 4 * 2 * prod(shape)  # float32, and once more as they are put together
    if memory is not None and n * each > memory:
        raise UserError(
            f"n={n} samples take {n * each / 2**30:,.0f} GiB, but this machine has {memory / 2**30:,.0f}; draw at most "
            f"{int(memory // (2 * each))} at a time, with other seeds"
        )


def build_pipeline(cfg: DictConfig, denoiser: Denoiser, shape: tuple[int, ...], label: torch.Tensor | None) -> Pipeline:
    """The denoiser with the sampler and guidance of a config."""
    with config_errors("sampler"):
        sampler = instantiate(cfg.sampler)(schedule=denoiser.schedule)
        sampler.times()
    check_variance(sampler, denoiser)
    guidance = instantiate(cfg.guidance)
    return Pipeline(denoiser, sampler, shape, guidance, label, seed=cfg.seed, batch_size=cfg.batch_size)


def inherit_run_config(cfg: DictConfig, trained: DictConfig, named: set[str]) -> None:
    """Sample as the run itself does, where the command line names no other sampler, grid, clip or guidance.

    Single settings of these, such as sampler.steps, then change the run's own.
    """
    changes = {key: OmegaConf.select(cfg, key) for key in named if key.split(".")[0] in SAMPLING_GROUPS and "." in key}
    with open_dict(cfg):
        if OmegaConf.is_interpolation(cfg.clip, "bound"):  # clip=auto, which follows the data of the run
            cfg.clip.bound = clip_bound(trained.data._target_)
        for part in SAMPLING_GROUPS:
            if part not in named:
                cfg[part] = trained[part]
        for key, value in changes.items():
            OmegaConf.update(cfg, key, value)
        if "sampler" not in named:
            for part in ("variance", "time_grid", "clip"):  # written out in the run's config
                if part in cfg.sampler and OmegaConf.is_config(cfg.sampler[part]):
                    cfg.sampler[part] = cfg[part]


def takes_label(guidance: Any) -> bool:
    """Whether a guidance, or one inside it, wants a label even where the net takes none."""
    return any(getattr(get_object(node["_target_"]), "takes_label", False) for _, node in instantiable_nodes(guidance))


def check_guidance_labels(guidance: Any) -> None:
    """Refuse a guidance that would do nothing, since it pushes towards a label and there is none."""
    for _, node in instantiable_nodes(guidance):
        if getattr(get_object(node["_target_"]), "pushes_to_label", False):
            name = node["_target_"].rpartition(".")[2]
            raise UserError(f"guidance: {name} needs a condition, but this run has none; use guidance=none")


def check_variance(sampler: Any, denoiser: Denoiser) -> None:
    """Refuse to read a variance from a network that did not learn it."""
    wanted = getattr(sampler, "variance", None)
    if wanted is not None and wanted.outputs > 1 and type(wanted) is not type(denoiser.variance):
        raise UserError(
            f"variance: the net of this run did not learn {type(wanted).__name__}; leave variance= out, or use "
            "variance=fixed_small or fixed_large"
        )


def labels(label: Any, n: int, num_classes: int, every: bool = True) -> torch.Tensor | None:
    """The label of each sample: the given one or ones in turn; None where there are none.

    Where none is given, all classes in turn, or none if not `every`.

    Raises:
        UserError: for a label that the run does not have.
    """
    if num_classes == 0:
        if label is not None:
            raise UserError(f"label={label} needs a run trained with condition=labels; leave label= out")
        return None
    if label is None:
        return torch.arange(n) % num_classes if every else None
    chosen = list(label) if OmegaConf.is_list(label) else [label]
    for value in chosen or [label]:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < num_classes:
            raise UserError(f"label={value}: this run has the labels 0 to {num_classes - 1}")
    return torch.tensor(chosen)[torch.arange(n) % len(chosen)]


def resolve_device(name: str) -> torch.device:
    """The named device; `auto` is the GPU where there is one.

    Raises:
        UserError: where there is no such device.
    """
    if name == "auto":
        return (
            torch.accelerator.current_accelerator() or torch.device("cpu")
            if torch.accelerator.is_available()
            else (torch.device("cpu"))
        )
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name} cannot be used here; try device=cpu") from error


def sweep_job_dir() -> Path | None:
    """In a sweep the folder of this job, since other samples of the run may have the same name; None otherwise."""
    hydra = HydraConfig.get()
    return Path(hydra.runtime.output_dir) if hydra.mode == RunMode.MULTIRUN else None

"""Sample from a run, or apply a task to given samples, and write the results."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig

from src.commands.acceleration import compile_pipeline, set_tf32, use_channels_last
from src.commands.cli import to_container
from src.commands.conditions import ConditionRequest
from src.commands.inputs import read_inputs
from src.commands.sampling_output import write_quality, write_result_images
from src.commands.sampling_setup import (
    build_pipeline,
    check_guidance_condition,
    check_guidance_scales,
    check_memory,
    check_settings,
    inherit_run_config,
    labels,
    needs_label,
    requested,
    resolve_device,
)
from src.diffusion.conditions import Cond, Condition, Labels, NoCondition
from src.plots.pictures import MAX_SHOWN
from src.runs.check_config import check_config
from src.runs.loading import build_denoiser, kind_and_units, load_weights, read_weights
from src.runs.run import Run
from src.samplers.pipeline import Pipeline
from src.tasks.base import Result, Task, TaskInput
from src.tasks.generate import Generate
from src.utils.atomic import atomic_write
from src.utils.console import key_value_table, log, progress_bar, start_logging
from src.utils.errors import UserError, config_errors, is_out_of_memory
from src.utils.folders import check_out, make_out
from src.utils.hardware import autocast_dtype, default_precision


class Sampling:
    """A task to be done with the model of a run.

    Attributes:
        cfg: the settings of the command.
        run: the run folder.
        pipeline: the model, its sampler and its guidance.
        task: the task, such as generating samples.
        inputs: the samples that the task is applied to.
        file: the checkpoint of the weights, or the folder of the snapshots.
        cost: the network evaluations and the time that it took; set by `draw`.
    """

    def __init__(
        self, cfg: DictConfig, run: Run, pipeline: Pipeline, task: Task, inputs: TaskInput, file: Path | None = None
    ):
        self.cfg, self.run, self.pipeline, self.task, self.inputs, self.file = cfg, run, pipeline, task, inputs, file

    @classmethod
    def prepare(cls, cfg: DictConfig, named: set[str]) -> "Sampling":
        """Check the settings, load the model and read the inputs.

        Args:
            cfg: the settings of the command.
            named: the keys on the command line; of the others the run's own settings are used, if it has them.

        Raises:
            UserError: for every mistake in the settings.
        """
        start_logging(None)
        check_settings(cfg, named)
        run = Run.find(str(cfg.run), cfg.paths.outputs)
        cfg.run = str(run.path)  # the guide of autoguidance is loaded from it
        trained = run.config()
        inherit_run_config(cfg, trained, named)
        check_config(to_container(cfg))
        with config_errors("condition"):
            condition = instantiate(trained.condition)
        class_names, vector_names = (run.metadata().get(key) or [] for key in ("classes", "vector_names"))
        request = ConditionRequest(cfg, class_names)
        rows = None
        if request.rows is not None and not request.is_test:
            rows = request.read_table(condition, vector_names)
            cfg.n = cfg.n if "n" in named else rows
        with config_errors("task"):
            task: Task = instantiate(cfg.task)
        shape = (trained.data.channels, *trained.data.size)
        if isinstance(task, Generate):
            task.keep = min(cfg.n, MAX_SHOWN[1 + len(shape)]) if cfg.gif else 0
        elif cfg.gif:
            raise UserError("gif=true shows the trajectory of new samples; use it with task=generate")
        inputs = TaskInput() if task.makes_samples else read_inputs(cfg, trained)
        n = cfg.n if task.makes_samples else inputs.n
        if rows not in (None, n):
            raise UserError(f"condition={request.rows} holds {rows} rows for {n} samples; give a row for each")
        check_memory(n, shape)
        guidance = to_container(cfg.guidance)
        takes = isinstance(condition, Labels) or needs_label(guidance)
        cond: Cond | None = None
        if takes and not request.is_test and set(request.given) <= {"label"}:
            num_classes = trained.data.get("num_classes", 0)
            cond = labels(request.given.get("label"), n, num_classes, every=task.makes_samples)
        elif "label" in request.given and "label" not in condition.members:
            raise UserError(
                f"label={request.given['label']} needs a run trained with condition=labels; leave label= out"
            )
        if cond is None and isinstance(condition, NoCondition) and "guidance" in named:
            check_guidance_condition(guidance)
        check_guidance_scales(guidance, condition)
        weights, source = read_weights(run, cfg.ckpt, cfg.weights)
        denoiser = build_denoiser(trained)
        load_weights(denoiser, weights, source)
        denoiser = denoiser.to(resolve_device(cfg.device)).eval().requires_grad_(False)
        pipeline = build_pipeline(cfg, denoiser, shape)
        device = pipeline.device
        set_tf32(cfg.tf32, device)
        pipeline.dtype = sampling_dtype(cfg, device)
        use_channels_last(cfg.channels_last, denoiser, device, pipeline.dtype is not None)
        if cfg.compile:
            compile_pipeline(pipeline, cfg.compile)
        pipeline.class_names, pipeline.vector_names = class_names, vector_names
        pipeline.kind, pipeline.units = kind_and_units(run, shape)
        pipeline.cond = requested(request, cond, pipeline, trained, n, task)
        return cls(cfg, run, pipeline, task, inputs, source)

    @property
    def out(self) -> Path:
        """The output folder."""
        if self.cfg.out is not None:
            return Path(str(self.cfg.out))
        return sweep_job_dir() or self.run.path / "samples" / self.name

    def check_out(self) -> None:
        """Check that the output folder can be written to, before anything is sampled.

        Raises:
            UserError: if it cannot.
        """
        check_out(self.out)

    def draw(self) -> Result:
        """Run the task, with a progress bar."""
        if self.cfg.compile and self.task.makes_samples:
            self.pipeline.warm_up(self.n)  # compilation is no part of the cost
        steps = self.n * (len(self.pipeline.sampler.times()) - 1)
        bar = progress_bar(steps, "sampling", unit="step", leave=False, delay=2, unit_scale=True)
        self.pipeline.on_step = bar.update
        with bar, self.pipeline.count_nfe() as self.cost:
            try:
                return self.task(self.pipeline, self.inputs)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                from src.commands.out_of_memory import sampling_error

                raise sampling_error(error, self.pipeline, self.n, self.task.makes_samples) from error

    @property
    def n(self) -> int:
        """The number of samples."""
        return self.cfg.n if self.task.makes_samples else self.inputs.n

    def write(self, result: Result) -> None:
        """Write samples.npz and the pictures, and print a summary."""
        n, seconds, out = len(result.x), self.cost.seconds, self.out
        make_out(out)
        arrays: dict[str, Any] = {"x": self.pipeline.to_units(result.x).numpy().astype(np.float32)}
        nfe = self.cost.evaluations / (self.task.computed(self.pipeline) if isinstance(self.task, Generate) else n)
        arrays |= {"nfe": nfe, "seconds": seconds}
        arrays |= arrays_of(self.pipeline.denoiser.condition, result.cond)
        with atomic_write(out / "samples.npz") as partial:
            np.savez(partial, **arrays)
        files = [
            "samples.npz",
            *write_result_images(result, self.pipeline, out),
            *self.task.save(self.pipeline, result, out),
        ]
        rows = [
            (
                "samples",
                f"{n} of shape {' x '.join(map(str, result.x.shape[1:]))} from {self.run.path} ({self.source})",
            ),
            *result.info.items(),
            *write_quality(result, self.pipeline, out),
            ("cost", f"{nfe:g} evaluations each, {seconds:.1f} s, {n / seconds:.1f} samples/s"),
            ("written", f"{out}: {', '.join(files)}"),
        ]
        log.info(key_value_table(rows))

    @property
    def name(self) -> str:
        """The name of the output folder."""
        task = HydraConfig.get().runtime.choices["task"]
        return "_".join([*([] if task == "generate" else [task]), f"{self.source}_{self.n}_seed_{self.cfg.seed}"])

    @property
    def source(self) -> str:
        """The source of the weights: a checkpoint, or the width of a reconstructed average."""
        return self.cfg.ckpt if isinstance(self.cfg.weights, str) else f"width_{self.cfg.weights:g}"


def arrays_of(condition: Condition, cond: Cond | None) -> dict[str, Any]:
    """The conditions of samples as arrays by name."""
    values = cond if isinstance(cond, dict) else {} if cond is None else {name_of(condition, cond): cond}
    return {name: value.cpu().numpy() for name, value in values.items()}


def name_of(condition: Condition, cond: torch.Tensor) -> str:
    """The name of a single condition; labels for a guidance alone are labels."""
    return condition.name if condition.members else "label"


def sampling_dtype(cfg: DictConfig, device: torch.device) -> torch.dtype | None:
    """The data type of autocast in sampling; None without autocast."""
    return autocast_dtype(default_precision(device.type) if cfg.precision == "auto" else str(cfg.precision))


def sweep_job_dir() -> Path | None:
    """The folder of this job of a sweep, since other jobs may write samples of the same name; None without a sweep."""
    hydra = HydraConfig.get()
    return Path(hydra.runtime.output_dir) if hydra.mode == RunMode.MULTIRUN else None

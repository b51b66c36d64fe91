"""The model of a run as the service needs it: what a request names are words of the command line of src.sample."""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.commands.cli import choices, to_container
from src.commands.conditions import ConditionRequest, image_condition
from src.commands.python_session import hydra_session, without_hydra
from src.commands.sampling import Sampling
from src.commands.sampling_setup import (
    build_pipeline,
    check_guidance_condition,
    inherit_run_config,
    labels,
    samplers_for,
)
from src.diffusion.conditions import Cond, Labels, NoCondition
from src.diffusion.operators import Mask
from src.loggers.metrics_csv import read_metrics
from src.runs.check_config import check_config
from src.samplers.pipeline import Pipeline
from src.service.conditions import Choices, choices_of
from src.service.model import SAMPLES, GivenArrays, Restored, Settings
from src.tasks import base as tasks
from src.tasks.base import Task
from src.utils.console import describe
from src.utils.errors import UserError, config_errors
from src.utils.override_syntax import assignment, command, read
from src.utils.state_dicts import weights_digest
from src.utils.units import Units

TASK_GROUP = "task"
NOT_SETTINGS = ("_target_", "_partial_", "solver", "mask")  # of a task; a mask is an array of the request


class ServedModel:
    """The model of a run.

    Args:
        words: of the command line of src.sample.
        conf: a folder of the user's own choices, as --config-dir names.

    Raises:
        UserError: for every mistake in them.
    """

    lock = threading.RLock()  # of all models, since there is one Hydra in a process

    def __init__(self, words: Sequence[str], conf: str | None = None):
        self.words, self.conf = list(words), conf
        with self.lock, hydra_session("sample", self.words, conf) as cfg:
            self.base = Sampling.prepare(without_hydra(cfg), {read(word).key for word in words})
        self.run, self.pipeline = self.base.run, replace(self.base.pipeline, cond=None)
        assert self.pipeline.units is not None
        self.trained, self.units = self.run.config(), self.pipeline.units
        self.digest = weights_digest(self.pipeline.denoiser.state_dict())
        self.samplers, self.solvers = samplers_for(self.trained), choices("inverse_solver")
        self.tasks = self._task_settings()
        self._compose = lru_cache(maxsize=512)(self._compose_once)
        self._sampling = lru_cache(maxsize=64)(self._sampling_once)
        self.command = partial(command_line, tuple(words))  # which is of use longer than the weights

    # ---- configs ----

    def _compose_once(self, *words: str) -> DictConfig:
        """The config of src.sample with further choices; they come from lists of this class, never from a request."""
        every = [*self.words, *words]
        with self.lock, hydra_session("sample", every, self.conf) as cfg:
            own = without_hydra(cfg)
            own.run = str(self.run.path)
            inherit_run_config(own, self.trained, {read(word).key for word in every})
        return own

    def config(self, settings: Settings, *words: str) -> DictConfig:
        """The checked config of a request; numbers are set as values, and cannot be anything else."""
        names = {"sampler": self.samplers, "solver": self.solvers}
        groups = {"sampler": "sampler", "solver": "inverse_solver"}
        chosen = [*words]
        for key, known in names.items():
            if (name := settings.get(key)) is not None:
                if name not in known:
                    raise UserError(f"{key} must be one of {', '.join(known)}, got {name}")
                chosen.append(assignment(groups[key], name))
        if settings.get("guidance") is not None:
            chosen.append("guidance=cfg")
        with self.lock:
            cfg = OmegaConf.create(OmegaConf.to_container(self._compose(*chosen), resolve=False))
            for key, value in numbers(settings).items():
                OmegaConf.update(cfg, key, value, force_add=True)
            plain = to_container(cfg)
            check_config(plain)
        return OmegaConf.create(plain)

    def _task_settings(self) -> dict[str, dict[str, Any]]:
        """The settings of the tasks that work on samples, with their defaults."""
        found = {}
        for name in choices(TASK_GROUP):
            with hydra_session("sample", [*self.words, assignment(TASK_GROUP, name)], self.conf) as cfg:
                node: Any = OmegaConf.to_container(cfg[TASK_GROUP], resolve=False)
                if "n" not in node:  # it makes new samples
                    found[name] = {key: value for key, value in node.items() if key not in NOT_SETTINGS}
        return found

    # ---- what the service asks ----

    def sampling(self, settings: Settings) -> Pipeline:
        """The pipeline with the sampler and the guidance of a request."""
        key = {name: settings.get(name) for name in ("sampler", "steps", "guidance")}
        return self._sampling(json.dumps(key))

    def _sampling_once(self, key: str) -> Pipeline:
        settings = json.loads(key)
        cfg = self.config(settings)
        if settings["guidance"] is not None and isinstance(self.pipeline.denoiser.condition, NoCondition):
            check_guidance_condition(to_container(cfg.guidance))
        own = build_pipeline(cfg, self.pipeline.denoiser, self.pipeline.shape)
        return replace(self.pipeline, sampler=own.sampler, guidance=own.guidance)

    @property
    def conditions(self) -> Choices:
        """The conditions that a request may name."""
        pipeline = self.pipeline
        return choices_of(pipeline.denoiser.condition, pipeline.class_names, pipeline.vector_names)

    def condition(
        self, settings: Settings, n: int, every: bool = True, images: Mapping[str, np.ndarray] = MappingProxyType({})
    ) -> Cond | None:
        """The conditions of n samples, those that src.sample would use."""
        pipeline, condition = self.pipeline, self.pipeline.denoiser.condition
        request = ConditionRequest.of(settings.get("condition") or {}, pipeline.class_names)
        if isinstance(condition, Labels) or ("label" in request.given and "label" not in condition.members):
            count = self.trained.data.get("num_classes", 0) if isinstance(condition, Labels) else 0
            return labels(request.given.get("label"), n, count, every)
        request.given |= {name: torch.from_numpy(image) for name, image in images.items()}
        if request:
            assert pipeline.kind is not None and pipeline.units is not None
            return request.conditions(condition, self.trained, pipeline.kind, pipeline.units, n)
        return replace(pipeline, seed=settings["seed"]).conditions(range(n)) if every and self.has_condition else None

    def read_image(self, name: str, read: Callable[[tuple[int, ...], bool], np.ndarray]) -> np.ndarray:
        """The images of a condition, as src.sample reads them from a file."""
        condition = self.pipeline.denoiser.condition.members[name]
        pictures = self.pipeline.kind == "images"

        def in_units(shape: tuple[int, ...], units: Units) -> torch.Tensor:
            return units.to_model(torch.from_numpy(read(shape, pictures)))

        return image_condition(condition, in_units, pictures, self.units).numpy()

    def prepare_task(self, name: str, settings: Settings, given: GivenArrays) -> tuple[Task, Pipeline, tasks.TaskInput]:
        """The task, the pipeline and the input, in units of the model.

        Raises:
            UserError: for settings or input that do not fit.
        """
        cfg = self.config(settings, assignment(TASK_GROUP, name))
        with config_errors(TASK_GROUP):
            task: Task = instantiate(cfg.task)
        if given.mask is not None:
            if "mask" not in cfg.task:
                raise UserError(f"mask: the task {name} takes none; leave it out")
            task = replace(task, operator=partial(mask_operator, given.mask))  # type: ignore[type-var]
        x = self.units.to_model(torch.from_numpy(np.asarray(given.x, np.float32)))
        cond = self.condition(settings, len(x), every=False)
        pipeline = replace(self.sampling(settings), cond=cond, seed=settings["seed"])
        return task, pipeline, tasks.TaskInput(x)

    def check_task(self, name: str, settings: Settings, given: GivenArrays) -> None:
        """Refuse settings and input that do not fit."""
        task, pipeline, inputs = self.prepare_task(name, settings, given)
        task.check(pipeline, inputs)

    def do_task(self, name: str, settings: Settings, given: GivenArrays, on_step: Callable[[int], None]) -> Restored:
        """Do a task."""
        task, pipeline, inputs = self.prepare_task(name, settings, given)
        with pipeline.inference():
            result = task(replace(pipeline, on_step=on_step), inputs)
        before = next(iter(result.comparison.values()), None)
        x, shown = (None if y is None else pipeline.to_units(y.float()).numpy() for y in (result.x, before))
        assert x is not None
        return Restored(x, shown, result.info)

    @property
    def card(self) -> dict[str, Any]:
        """The facts of the run."""
        facts, pipeline, cfg = self.run.metadata(), self.pipeline, self.trained
        parts = ("data", "net", "schedule", "parameterization", "loss", "condition", "sampler", "guidance")
        return {
            "name": facts.get("name") or cfg.name,
            "run": str(self.run.path),
            "weights": self.base.source,
            "digest": self.digest,
            "kind": pipeline.kind,
            "shape": list(pipeline.shape),
            "classes": self.classes(),
            "steps": len(pipeline.sampler.times()) - 1,
            "guided": self.has_condition,
            "parameters": sum(p.numel() for p in pipeline.denoiser.parameters()),
            "device": str(pipeline.device),
            "parts": {part: describe(to_container(cfg[part])) for part in parts if cfg.get(part) is not None},
            "trained": facts.get("results", {}),
        }

    @property
    def has_condition(self) -> bool:
        """True if the network takes a condition."""
        return not isinstance(self.pipeline.denoiser.condition, NoCondition)

    def classes(self) -> list[str]:
        """The names of the classes that a request may name."""
        count = self.trained.data.get("num_classes", 0) if isinstance(self.pipeline.denoiser.condition, Labels) else 0
        return list(self.pipeline.class_names) if len(self.pipeline.class_names) == count else [*map(str, range(count))]

    def curves(self) -> dict[str, list[list[float]]]:
        """The losses of the training: (step, value) by name."""
        file = self.run.path / "metrics.csv"
        rows = read_metrics(file) if file.exists() else []
        names = sorted({name for row in rows for name in row if "loss" in name})
        return {name: [[row["step"], row[name]] for row in rows if name in row] for name in names}


def command_line(words: Sequence[str], kind: str, settings: Settings) -> str:
    """The command line of src.sample that gives the same samples."""
    given = {"sampler": settings.get("sampler"), "inverse_solver": settings.get("solver"), **numbers(settings)}
    if settings.get("guidance") is not None:
        given = {"guidance": "cfg"} | given
    given = {key: value for key, value in given.items() if value is not None} | {"seed": settings["seed"]}
    replaced = [key for key in given if key in ("sampler", "guidance")]
    own = [
        word for word in words
        if read(word).key not in given and read(word).key.split(".")[0] not in replaced
    ]  # fmt: skip
    found = [*own, *(assignment(key, value) for key, value in given.items())]
    found += [f"n={settings['n']}", "pad_batches=true"] if kind == SAMPLES else [f"task={kind}", "input=FILE"]
    images = dict.fromkeys(settings.get("images", ()), "FILE")
    for key, value in ((settings.get("condition") or {}) | images).items():
        found.append(assignment(f"condition.{key}", value))
    return command("sample", *found)


def numbers(settings: Settings) -> dict[str, Any]:
    """The settings of a request that are values, by their keys in the config of src.sample."""
    found = {"sampler.steps": settings.get("steps"), "guidance.scale": settings.get("guidance")}
    found |= {f"{TASK_GROUP}.{key}": value for key, value in (settings.get("settings") or {}).items()}
    return {key: value for key, value in found.items() if value is not None}


def mask_operator(mask: np.ndarray, shape: tuple[int, ...]) -> Mask:
    """Make the operator that keeps what a mask (*S) does not mark.

    Raises:
        UserError: if the mask has another shape.
    """
    if mask.shape != shape[1:]:
        given, expected = tasks.by_size(mask.shape), tasks.by_size(shape[1:])
        raise UserError(f"mask must have the shape {expected}, as the samples of this run, got {given}")
    return Mask(1 - torch.from_numpy(mask != 0).float()[None, None])

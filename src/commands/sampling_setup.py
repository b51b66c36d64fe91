"""Set up sampling from a run: the config that it inherits, its labels, and its pipeline."""

from math import prod
from typing import Any

import torch
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from src.commands.cli import choices, to_container
from src.commands.conditions import ConditionRequest
from src.commands.options import SampleOptions
from src.diffusion.conditions import Clusters, Cond, Condition
from src.diffusion.denoiser import Denoiser
from src.runs.check_config import check_options
from src.runs.folders import clip_bound
from src.runs.run import SAMPLING_GROUPS
from src.samplers.pipeline import Pipeline
from src.tasks.base import Task
from src.utils.console import log
from src.utils.errors import UserError, config_errors
from src.utils.hardware import physical_memory
from src.utils.paths import CONF
from src.utils.targets import instantiable_nodes


def check_settings(cfg: DictConfig, named: set[str]) -> None:
    """Refuse settings that are wrong for any run.

    Args:
        cfg: the settings of the command.
        named: the keys on the command line.

    Raises:
        UserError: naming the first that is wrong.
    """
    if cfg.run is None:
        raise UserError("run=RUN must be given: a run folder, or run=latest for the newest run")
    check_options(to_container(cfg), SampleOptions)
    if not isinstance(cfg.weights, str) and "ckpt" in named:
        raise UserError(f"weights={cfg.weights} is rebuilt from snapshots of the whole run; leave ckpt= out")


def inherit_run_config(cfg: DictConfig, trained: DictConfig, named: set[str]) -> None:
    """Take the sampler, variance, time grid, clipping and guidance of the run, unless the command line chooses others.

    Single settings on the command line, such as sampler.steps, then override those of the run.

    Args:
        cfg: the settings of the command, which are changed.
        trained: the config of the run.
        named: the keys on the command line.
    """
    changes = {key: OmegaConf.select(cfg, key) for key in named if key.split(".")[0] in SAMPLING_GROUPS and "." in key}
    with open_dict(cfg):
        if OmegaConf.is_interpolation(cfg.clip, "bound"):  # clip=auto depends on the data of the run
            cfg.clip.bound = clip_bound(trained.data._target_, trained.data.get("units"))
        for part in SAMPLING_GROUPS:
            if part not in named:
                cfg[part] = trained[part]
        for key, value in changes.items():
            OmegaConf.update(cfg, key, value)
        if "sampler" not in named:
            for part in ("variance", "time_grid", "clip"):  # resolved in the run's config
                if part in cfg.sampler and OmegaConf.is_config(cfg.sampler[part]):
                    cfg.sampler[part] = cfg[part]
    for part in ("variance", "time_grid", "clip"):
        if part not in cfg.sampler and any(key.split(".")[0] == part for key in named):
            log.warning(f"WARNING: {part}= has no effect here: {cfg.sampler._target_.rpartition('.')[2]} takes none")


def own_sampler(cfg: DictConfig, trained: DictConfig) -> set[str]:
    """The key of the sampler if a benchmark measures the run's own flow-map sampler, which keeps its settings.

    Which of them a flow map can be sampled with depends on what its loss has trained.
    """
    return {"sampler"} if cfg.sampler._target_ == trained.sampler._target_ and needs_flow_map(cfg.sampler) else set()


def samplers_for(trained: DictConfig) -> list[str]:
    """The samplers of this project that can sample from a run."""
    return [
        name
        for name in choices("sampler")
        if trained.get("flow_map") or not needs_flow_map(OmegaConf.load(CONF / "sampler" / f"{name}.yaml"))
    ]


def needs_flow_map(sampler: Any) -> bool:
    """True for the config of a sampler of flow maps alone."""
    return getattr(get_object(sampler._target_), "needs_flow_map", False)


def check_memory(n: int, shape: tuple[int, ...]) -> None:
    """Refuse more samples than fit in memory, which holds all of them until they are written.

    Raises:
        UserError: naming how many would fit.
    """
    memory, each = physical_memory(), 4 * 2 * prod(shape)  # float32, twice while they are concatenated
    if memory is not None and n * each > memory:
        raise UserError(
            f"n={n} samples take {n * each / 2**30:,.0f} GiB, but this machine has {memory / 2**30:,.0f}; draw at most "
            f"{int(memory // (2 * each))} at a time, each time with another seed"
        )


def labels(label: Any, n: int, num_classes: int, every: bool = True) -> torch.Tensor | None:
    """The label of each of n samples, (n,), which repeats the given label or labels; None without labels.

    Args:
        label: a label, a list of labels, or None.
        n: the number of samples.
        num_classes: the number of labels that the run has; 0 if it has none.
        every: without a given label, True repeats all classes, and False returns None.

    Raises:
        UserError: for a label that the run does not have.
    """
    if num_classes == 0:
        if label is not None:
            raise UserError(f"label={label} needs a run trained with condition=labels; leave label= out")
        return None
    if label is None:
        return torch.arange(n) % num_classes if every else None
    chosen = list(label) if isinstance(label, list) or OmegaConf.is_list(label) else [label]
    for value in chosen or [label]:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < num_classes:
            raise UserError(f"label must be one of 0 to {num_classes - 1}, the labels of this run, got {value}")
    return torch.tensor(chosen)[torch.arange(n) % len(chosen)]


def needs_label(guidance: Any) -> bool:
    """True if a guidance, or one inside it, needs labels even if the net takes none."""
    return any(getattr(get_object(node["_target_"]), "needs_label", False) for _, node in instantiable_nodes(guidance))


def check_guidance_condition(guidance: Any) -> None:
    """Refuse a guidance that needs a condition if there is none."""
    for _, node in instantiable_nodes(guidance):
        if getattr(get_object(node["_target_"]), "needs_condition", False):
            name = node["_target_"].rpartition(".")[2]
            raise UserError(f"guidance: {name} needs a condition, but this run has none; use guidance=none")


def check_guidance_scales(guidance: Any, condition: Condition) -> None:
    """Refuse a scale for a condition that the run was not trained with."""
    for path, node in instantiable_nodes(guidance):
        scale = node.get("scale")
        if isinstance(scale, dict) and (unknown := [name for name in scale if name not in condition.members]):
            key, there = f"guidance.{path}".rstrip("."), ", ".join(condition.members) or "none"
            raise UserError(f"{key}.scale names {unknown[0]}, but the conditions of this run are: {there}")


def requested(
    request: ConditionRequest, cond: Cond | None, pipeline: Pipeline, trained: DictConfig, n: int, task: Task
) -> Cond | None:
    """The conditions of n samples: those asked for, else for new samples those that the run's condition draws.

    Args:
        request: what the command line asks for.
        cond: labels that are known already.
        pipeline: the loaded model.
        trained: the config of the run.
        n: number of samples.
        task: whose input is given, or that makes new samples.
    """
    condition = pipeline.denoiser.condition
    if cond is not None:
        return cond
    if request:
        assert pipeline.kind is not None and pipeline.units is not None
        return request.conditions(condition, trained, pipeline.kind, pipeline.units, n)
    if not task.makes_samples or isinstance(condition, Clusters):  # clusters are drawn when they are needed
        return None
    return pipeline.conditions(range(n))


def build_pipeline(cfg: DictConfig, denoiser: Denoiser, shape: tuple[int, ...]) -> Pipeline:
    """Build the pipeline of a denoiser with the sampler and the guidance of a config.

    Args:
        cfg: the settings of the command.
        denoiser: the loaded denoiser.
        shape: (C, *S) of one sample.
    """
    with config_errors("sampler"):
        sampler = instantiate(cfg.sampler)(schedule=denoiser.schedule)
        sampler.times()
    check_variance(sampler, denoiser)
    guidance = instantiate(cfg.guidance)
    return Pipeline(denoiser, sampler, shape, guidance, seed=cfg.seed, batch_size=cfg.batch_size)


def check_variance(sampler: Any, denoiser: Denoiser) -> None:
    """Refuse a learned variance if the network did not learn it."""
    wanted = getattr(sampler, "variance", None)
    if wanted is not None and wanted.outputs > 1 and type(wanted) is not type(denoiser.variance):
        raise UserError(
            f"variance: the net of this run did not learn {type(wanted).__name__}; leave variance= out, or use "
            "variance=fixed_small or fixed_large"
        )


def resolve_device(name: str) -> torch.device:
    """The device of a name; `auto` is the accelerator if there is one, else the CPU.

    Raises:
        UserError: if there is no such device.
    """
    if name == "auto":
        available = torch.accelerator.is_available()
        return (torch.accelerator.current_accelerator() if available else None) or torch.device("cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name} cannot be used here; try device=cpu") from error

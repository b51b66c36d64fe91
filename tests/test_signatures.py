"""The signatures of the parts of the core: ranges are kept to their ends, defaults are those of conf/."""

import importlib
import inspect
import math
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
import torch
import yaml
from annotated_types import Ge, Gt, Interval, Le, Lt
from hydra.utils import get_object

import src.module
from src import diffusion, optim, samplers
from src.diffusion import beta_schedules, guidance, weightings
from src.runs.bounds import violation

# Arguments without a default, by name; a class that needs others is not among those tested here.
NEEDED: dict[str, Any] = {
    "schedule": beta_schedules.LinearSchedule(), "weighting": weightings.uniform_weighting, "num_classes": 3,
    "num_clusters": 3, "channels": 1, "guidance": guidance.CFG(), "model": torch.nn.Linear(1, 1),
    "params": [torch.nn.Parameter(torch.ones(1))],
}  # fmt: skip
# Ranges that only the check of a config holds.
UNCHECKED = {
    "TanhSchedule.beta_min", "TanhSchedule.beta_max", "TanhSchedule.width", "CosineSchedule.offset",
    "PolynomialSchedule.power", "PolynomialSchedule.precision", "PolynomialSchedule.ratio_min",
    "LearnedSchedule.hidden", "VLB.num_levels", "Hybrid.num_levels", "Hybrid.scale", "Heun.s_min", "Heun.s_max",
    "HeunVE.s_min", "HeunVE.s_max", "Restart.s_min", "Restart.s_max", "Labels.dropout", "Clusters.num_clusters",
    "Clusters.dropout", "ConstantEMA.start", "HalfLifeEMA.batch_size", "HalfLifeEMA.accumulate_grad_batches",
    "DPM2.s_min", "DPM2.s_max", "Uncertainty.width", "Muon.betas", "Muon.eps", "Muon.weight_decay",
}  # fmt: skip
# Ends at which the other arguments must be others.
DEPENDENT = {"ConstantSchedule.steps", "VESDE.steps", "EDMSchedule.steps", "Labels.num_classes"}
# Settings that differ on purpose: presets, and numbers of steps that suit each sampler.
OTHER = {
    "guidance/rescale.scale",
    "guidance/rescale.rescale",
    "time_grid/align_your_steps.sigmas",
    "time_sampler/logit_normal_wide.std",
    *(f"loss/{path.stem}.teacher" for path in Path("conf/loss").glob("*.yaml")),  # a run in a file, an object in Python
}
OTHER_NAMES = {("sampler", "steps"), ("lr_schedule", "warmup_steps")}


def ends(hint: Any) -> Iterator[tuple[type, Any]]:
    """The type and the ends of the ranges of an annotation."""
    if get_origin(hint) is not Annotated:
        for part in get_args(hint):
            yield from ends(part)
        return
    kind, *marks = get_args(hint)
    for mark in marks:
        for end in mark if isinstance(mark, Interval) else [mark]:
            if isinstance(end, Ge | Gt | Le | Lt):
                yield kind, end


def all_ends() -> Iterator[Any]:
    for package in (diffusion, samplers, optim):
        for file in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{file.name}")
            for name, part in vars(module).items():
                if not inspect.isclass(part) or part.__module__ != module.__name__ or inspect.isabstract(part):
                    continue
                given = inspect.signature(part).parameters.values()
                lacking = {p.name for p in given if p.default is p.empty} - NEEDED.keys()
                for argument, hint in get_type_hints(part.__init__, include_extras=True).items():
                    for kind, end in ends(hint):
                        label = f"{name}.{argument} {end}"
                        if not lacking and f"{name}.{argument}" not in UNCHECKED and math.isfinite(limit(end)):
                            yield pytest.param(part, argument, kind, end, id=label)


@pytest.mark.parametrize("package", [diffusion, samplers, optim, src.module], ids=lambda package: package.__name__)
def test_defaults_are_legal(package):
    names = [f"{package.__name__}.{file.name}" for file in pkgutil.iter_modules(getattr(package, "__path__", []))]
    for module in map(importlib.import_module, names or [package.__name__]):
        for part in vars(module).values():
            if (inspect.isclass(part) or inspect.isfunction(part)) and part.__module__ == module.__name__:
                hints = get_type_hints(
                    getattr(part, "__init__", part) if inspect.isclass(part) else part, None, None, True
                )
                for name, parameter in inspect.signature(part).parameters.items():
                    given = parameter.default is not parameter.empty and "factory" not in str(parameter.default)
                    assert not given or violation(parameter.default, hints.get(name, Any)) is None, (part, name)


def limit(end: Any) -> float:
    return next(getattr(end, name) for name in ("ge", "gt", "le", "lt") if hasattr(end, name))


@pytest.mark.parametrize(("part", "argument", "kind", "end"), all_ends())
def test_the_end_of_a_range(part, argument, kind, end):
    needed = {p: NEEDED[p] for p in inspect.signature(part).parameters if p in NEEDED}
    at, inward = limit(end), 1 if isinstance(end, Ge | Gt) else -1
    beyond = at - inward * (1 if kind is int else 1e-6)
    for outside in [at, beyond] if isinstance(end, Gt | Lt) else [beyond]:
        with pytest.raises(ValueError):  # the text is checked beside each part
            part(**needed | {argument: kind(outside)})
    if isinstance(end, Ge | Le) and f"{part.__name__}.{argument}" not in DEPENDENT:
        part(**needed | {argument: kind(at)})


def files() -> Iterator[Any]:
    for path in sorted(Path("conf").glob("*/*.yaml")):
        target = (yaml.safe_load(path.read_text()) or {}).get("_target_") or ""
        if target.startswith(("src.diffusion", "src.samplers", "src.optim")):
            yield pytest.param(path, id=f"{path.parent.name}/{path.stem}")


@pytest.mark.parametrize("path", files())
def test_a_part_made_in_python_has_the_settings_of_its_file(path):
    settings = yaml.safe_load(path.read_text())
    for name, parameter in inspect.signature(get_object(settings["_target_"])).parameters.items():
        label, value = f"{path.parent.name}/{path.stem}.{name}", settings.get(name, parameter.default)
        interpolated = isinstance(value, str) and "${" in value
        if parameter.default is parameter.empty or interpolated or label in OTHER:
            continue
        if (path.parent.name, name) not in OTHER_NAMES:
            assert parameter.default == (tuple(value) if isinstance(value, list) else value), label

"""Check that a config from a run folder, which may be someone else's, runs only code of this project's parts.

Hydra calls the `_target_` of a config, so a config is code. A config composed by the command line is the user's own. In
a config from a run folder every target must be a part of this project, or one of the classes of torch and Lightning
below, unless the command line says trust=true. docs/security.md lists the guarantees.
"""

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from hydra.utils import get_object

from src.runs.check_config import instantiable_nodes, muted
from src.utils.errors import UserError
from src.utils.paths import CONF

# Packages of this project whose classes and functions may be targets, and those whose classes alone may be.
PLAIN = ("src.diffusion", "src.nets", "src.samplers", "src.optim")
PARTS = ("src.callbacks", "src.data", "src.loggers", "src.metrics", "src.module", "src.tasks", "src.utils.fsdp")
FUNCTIONS = (
    "src.runs.given.given",
    "src.runs.loading.load_denoiser",
    "src.metrics.features.auto.auto",
    "src.loggers.lightning.lightning_logger",
)
# Classes of other packages.
LIGHTNING = {
    f"pytorch_lightning.{name}"
    for name in (
        "Trainer", "callbacks.DeviceStatsMonitor", "callbacks.EarlyStopping", "callbacks.GradientAccumulationScheduler",
        "callbacks.LearningRateMonitor", "callbacks.ModelSummary", "callbacks.RichModelSummary",
        "callbacks.RichProgressBar", "callbacks.StochasticWeightAveraging", "callbacks.ThroughputMonitor",
        "callbacks.Timer", "callbacks.TQDMProgressBar", "loggers.CSVLogger", "loggers.TensorBoardLogger",
        "strategies.DDPStrategy", "strategies.FSDPStrategy", "strategies.ModelParallelStrategy",
        "strategies.SingleDeviceStrategy",
    )
}  # fmt: skip
TORCH = {"torch.optim.lr_scheduler": "LRScheduler", "torch.optim": "Optimizer", "torch.nn": "Module"}
GET_CLASS = "hydra.utils.get_class"  # of one of the above, such as the cells of net=rnn
# Settings of Hydra that a saved sweep may have: numbers and names, which run nothing.
PLAIN_SETTING = re.compile(r"hydra[./](?:sweeper|launcher)(?:\.(?!python\b|setup\b)\w+)*=[\w.:,+-]*")

_trusted: ContextVar[bool] = ContextVar("trusted", default=False)


@contextmanager
def trust_configs(asked: bool) -> Iterator[None]:
    """Accept any target in configs from folders if `asked`, the value of trust=."""
    token = _trusted.set(asked)
    try:
        yield
    finally:
        _trusted.reset(token)


def is_trusted() -> bool:
    """True if the command line says trust=true."""
    return _trusted.get()


def check_trusted_config(cfg: dict[str, Any], file: Path) -> None:
    """Refuse a saved config with targets outside this project, or with interpolations.

    Args:
        cfg: the saved config as plain containers.
        file: the file that it is from.

    Raises:
        UserError: naming the file, the place in it, and the target.
    """
    for path, value in string_values(cfg):
        if "${" in value:
            raise UserError(f"{file}: {path} holds the interpolation {value!r}; replace it by its value")
    for path, name in [] if is_trusted() else untrusted_targets(cfg):
        raise UserError(
            f"{file}: {path}._target_={name} is neither a part of this project nor one of the classes of torch and "
            "Lightning that a run folder may name. If you trust who made the folder, add trust=true: that code runs"
        )


def untrusted_targets(cfg: Any) -> list[tuple[str, str]]:
    """The targets of a config that are not parts, each with its path."""
    nodes = [(path, node["_target_"], node) for path, node in instantiable_nodes(cfg)]
    return [
        (path, str(name)) for path, name, node in nodes if not is_part(node.get("path") if name == GET_CLASS else name)
    ]


def is_part(name: Any) -> bool:
    """True if a saved config may name a target. Only this project and torch are imported to find out."""
    if not isinstance(name, str) or not re.fullmatch(r"\w+(\.\w+)+", name):
        return False
    if name in LIGHTNING:
        return True
    packages = (*PLAIN, *PARTS, *TORCH, *FUNCTIONS)
    if "._" in name or not any(name == package or name.startswith(package + ".") for package in packages):
        return False
    try:
        with muted("hydra.utils"):
            target = get_object(name)
    except Exception:  # there is no such target: check_config says so
        return within(name, (*PLAIN, *PARTS))
    module = getattr(target, "__module__", None) or ""
    if getattr(sys.modules.get(module), getattr(target, "__name__", ""), None) is not target:
        return False  # a method, an attribute, or an object of another module
    if within(module, tuple(TORCH)):
        return inspect.isclass(target) and any(c.__name__ in TORCH.values() for c in target.__mro__[1:])
    if name in FUNCTIONS or within(module, PLAIN):
        return inspect.isclass(target) or inspect.isfunction(target)
    return within(module, PARTS) and inspect.isclass(target)


def within(name: str, packages: Sequence[str]) -> bool:
    """True if a module is one of these packages, or inside one."""
    return any(name == package or name.startswith(package + ".") for package in packages)


def string_values(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every string in plain containers, with its path."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from string_values(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from string_values(value, f"{path}[{i}]")


def check_trusted_overrides(overrides: Sequence[str], file: Path, trust: bool) -> None:
    """Refuse saved overrides that do more than set values and choose among the files of conf/.

    Raises:
        UserError: naming the file and the override.
    """
    for override in [] if trust else overrides:
        key, _, value = override.lstrip("+~").partition("=")
        named = key.endswith("_target_") and all(is_part(name) for name in value.split(","))
        chooses = "/" in key or (CONF / key).is_dir()
        if (
            (key.startswith("hydra") and not PLAIN_SETTING.fullmatch(override))
            or not re.fullmatch(r"\w[\w.-]*(/\w+)?", key)
            or ".." in key
            or (chooses and not re.fullmatch(r"[\w,\[\] -]*", value))  # a file outside conf/
            or "${" in override
            or ("_target_" in override and not named)
        ):
            raise UserError(
                f"{file} holds the override {override}, which could run code or read other configs. If you trust "
                "who made the folder, add trust=true"
            )

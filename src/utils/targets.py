"""Targets: what the `_target_` of a config names, whether a config of others may name it, and what a node makes.

Nothing here needs Hydra, so that an exported model can be loaded without it.
"""

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import import_module
from typing import Any

# Packages of this project whose classes and functions may be targets, and those whose classes alone may be.
PLAIN = ("src.diffusion", "src.nets", "src.samplers", "src.optim")
PARTS = (
    "src.callbacks", "src.data", "src.loggers", "src.metrics", "src.module", "src.pretrained", "src.tasks",
    "src.utils.fsdp",
)  # fmt: skip
FUNCTIONS = (
    "src.runs.given.given",
    "src.runs.loading.load_denoiser",
    "src.runs.loading.load_teacher",
    "src.metrics.features.auto.auto",
    "src.loggers.lightning.lightning_logger",
    *(f"src.tasks.inverse_problems.{name}" for name in ("blur", "downsampling", "grayscale", "mask_from")),
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
GIVEN = "src.runs.given.given"  # an object of a Python program


def instantiable_nodes(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All nodes with a `_target_`, with their paths."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from instantiable_nodes(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from instantiable_nodes(value, f"{path}[{i}]")


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


def get_object(name: str) -> Any:
    """The object of a dotted name, importing as much of it as is a module.

    Raises:
        ImportError: if there is no such object.
    """
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        module = ".".join(parts[:n])
        try:
            found = import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # of another module, which that one imports
            continue
        for part in parts[n:]:
            try:
                found = getattr(found, part)
            except AttributeError as error:
                raise ImportError(f"there is no {name}") from error
        return found
    raise ImportError(f"there is no {name}")


def instantiate(node: Any, **more: Any) -> Any:
    """Make what a node of plain containers describes: `_target_` called with its arguments, inner nodes first.

    Args:
        node: plain containers; one with `_partial_` becomes a function of the other arguments.
        more: further arguments of the outermost target, or another `_partial_`.
    """
    if isinstance(node, list):
        return [instantiate(item) for item in node]
    if not isinstance(node, dict):
        return node
    arguments = {key: instantiate(value) for key, value in node.items() if not key.startswith("_")} | more
    if "_target_" not in node:
        return arguments
    if node["_target_"] == GET_CLASS:
        return get_object(arguments["path"])
    target, is_partial = get_object(node["_target_"]), arguments.pop("_partial_", node.get("_partial_"))
    return partial(target, **arguments) if is_partial else target(**arguments)

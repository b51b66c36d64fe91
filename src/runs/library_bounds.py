"""The ranges of arguments of library classes, whose own signatures give types alone."""

import inspect
import re
import typing
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval, Predicate

Count = Annotated[int, Ge(1)]
Share = Annotated[float, Interval(gt=0, le=1)]


# Error messages quote the docstrings of these predicates after "must be".


def is_duration(text: str) -> bool:
    """a time above 0 as DD:HH:MM:SS."""
    return re.fullmatch(r"\d+:\d\d:\d\d:\d\d", text) is not None and text.strip("0:") != ""


def names_devices(text: str) -> bool:
    """the numbers of devices, such as 0,1."""
    return re.fullmatch(r"auto|-1|\d+(,\d+)*,?", text) is not None


def is_measured(name: str) -> bool:
    """val/loss_ema, val/loss_raw or, with callbacks=quality, quality/..."""
    return name in ("val/loss_ema", "val/loss_raw") or name.startswith("quality/")


class Trainer:
    """Lightning's Trainer, without values that do not work here, such as a strategy that forks this process."""

    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false"]
    devices: (
        Literal[-1]
        | Annotated[int, Interval(ge=1, le=1024)]
        | Annotated[str, Predicate(names_devices)]
        | list[Annotated[int, Ge(0)]]
    )
    num_nodes: Count
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", 32, 16, "32", "16", "bf16"]
    max_steps: Literal[-1] | Annotated[int, Ge(0)]  # 0 only takes a pretrained model in
    max_epochs: Literal[-1] | Count | None
    min_steps: Annotated[int, Ge(0)] | None
    min_epochs: Annotated[int, Ge(0)] | None
    max_time: Annotated[str, Predicate(is_duration)] | None
    accumulate_grad_batches: Count
    gradient_clip_val: Annotated[float, Ge(0)] | None
    gradient_clip_algorithm: Literal["norm", "value"] | None
    limit_train_batches: Count | Share
    limit_val_batches: Count | Share
    val_check_interval: Count | Share
    check_val_every_n_epoch: Count | None
    log_every_n_steps: Count
    num_sanity_val_steps: Literal[-1] | Annotated[int, Ge(0)]
    profiler: Literal["simple", "advanced", "pytorch"] | None
    reload_dataloaders_every_n_epochs: Annotated[int, Ge(0)]
    # Other values would disable checkpoints, or change the order of the data that resuming relies on.
    enable_checkpointing: Literal[True] | None
    fast_dev_run: Literal[False]
    barebones: Literal[False]
    overfit_batches: Literal[0]


class Optimizer:
    """The optimizers of torch, whose arguments of the same name have the same meaning."""

    lr: Annotated[float, Gt(0)]
    betas: tuple[Annotated[float, Interval(ge=0, lt=1)], Annotated[float, Interval(ge=0, lt=1)]]
    eps: Annotated[float, Interval(gt=0, le=1)]
    weight_decay: Annotated[float, Ge(0)]
    momentum: Annotated[float, Interval(ge=0, lt=1)]
    dampening: Annotated[float, Interval(ge=0, le=1)]
    alpha: Annotated[float, Interval(ge=0, lt=1)]
    rho: Annotated[float, Interval(ge=0, le=1)]
    lr_decay: Annotated[float, Ge(0)]
    initial_accumulator_value: Annotated[float, Ge(0)]
    momentum_decay: Annotated[float, Ge(0)]


class Adafactor:
    """The Adafactor optimizer of torch, whose `eps` is a pair."""

    lr: Annotated[float, Gt(0)]
    weight_decay: Annotated[float, Ge(0)]
    d: Annotated[float, Gt(0)]


class EarlyStopping:
    """EarlyStopping of Lightning."""

    monitor: Annotated[str, Predicate(is_measured)]
    patience: Annotated[int, Ge(0)]
    mode: Literal["min", "max"]


class Strategy:
    """The strategies of Lightning that start processes."""

    process_group_backend: Literal["gloo", "nccl"] | None


# The classes with these arguments; a name that ends in a dot stands for all classes below it.
LIBRARIES = {
    "pytorch_lightning.trainer.trainer.Trainer": Trainer,
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping": EarlyStopping,
    "pytorch_lightning.strategies.ddp.DDPStrategy": Strategy,
    "torch.optim.Adafactor": Adafactor,
    "torch.optim.": Optimizer,
}


def library_hints(target: Any) -> dict[str, Any]:
    """The annotations with ranges of a library class; empty for a target that is not listed."""
    if not inspect.isclass(target):
        return {}
    name = f"{target.__module__}.{target.__qualname__}"
    for place, hints in LIBRARIES.items():
        if name == place or (place.endswith(".") and name.startswith(place)):
            return typing.get_type_hints(hints, include_extras=True)
    return {}

"""Any optimizer of torch, by its name."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import torch
from annotated_types import Gt
from torch import nn

# What a training step of one backward pass with dense gradients cannot use.
UNSUITED = {"Optimizer", "LBFGS", "SparseAdam"}


def torch_optimizer(
    params: Iterable[nn.Parameter],
    name: str,
    lr: Annotated[float, Gt(0)] = 1e-3,
    options: Mapping[str, Any] | None = None,
) -> torch.optim.Optimizer:
    """Make an optimizer of torch.optim, such as RAdam.

    Args:
        params: parameters to optimize.
        name: name of the class.
        lr: learning rate.
        options: its other arguments; those left out have the defaults of torch.

    Raises:
        ValueError: for an unknown name, an unsuited optimizer, and arguments that it does not take.
    """
    if lr <= 0:
        raise ValueError(f"optimizer.lr must be > 0, got {lr}")
    found = {k for k, v in vars(torch.optim).items() if inspect.isclass(v) and issubclass(v, torch.optim.Optimizer)}
    if name not in found - UNSUITED:
        raise ValueError(f"optimizer.name={name} must be one of {', '.join(sorted(found - UNSUITED))}")
    kind = getattr(torch.optim, name)
    allowed = [key for key in inspect.signature(kind).parameters if key not in ("params", "lr")]
    for key in options or {}:
        if key not in allowed:
            raise ValueError(f"optimizer.options.{key} is no argument of {name}. Choices: {', '.join(allowed)}")
    made: torch.optim.Optimizer = kind(params, lr=lr, **(options or {}))
    return made

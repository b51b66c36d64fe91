"""The values of conditions: a tensor with a row for each sample, or several of them by name."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor

NULL = -1  # the integer that stands for a dropped condition; of conditions that are floats NaN does

Cond = Tensor | dict[str, Tensor]
AnyCond = TypeVar("AnyCond", Tensor, Cond, Cond | None)


def map_cond(function: Callable[[Tensor], Tensor], cond: AnyCond) -> AnyCond:
    """Apply a function to each tensor of a condition; None stays None."""
    if isinstance(cond, dict):
        return {name: function(value) for name, value in cond.items()}
    return None if cond is None else function(cond)


def rows_of(cond: AnyCond, rows: Tensor | slice) -> AnyCond:
    """The conditions of some samples."""
    return map_cond(lambda value: value[rows], cond)


def cat_cond(conds: Sequence[Cond]) -> Cond:
    """The conditions of several batches as one."""
    first = conds[0]
    if isinstance(first, dict):
        return {name: torch.cat([cond[name] for cond in conds]) for name in first}  # type: ignore[index]
    return torch.cat(conds)  # type: ignore[arg-type]


def count_cond(cond: Cond) -> int:
    """The number of samples that a condition is for."""
    return len(next(iter(cond.values())) if isinstance(cond, dict) else cond)


def null_like(cond: AnyCond) -> AnyCond:
    """The null value in place of every condition: -1 for integers, NaN for floats."""
    return map_cond(lambda value: torch.full_like(value, torch.nan if value.is_floating_point() else NULL), cond)


def is_null(cond: Shaped[Tensor, "batch *c"]) -> Shaped[Tensor, " batch"]:
    """True for each sample whose condition is the null value."""
    missing = cond.isnan() if cond.is_floating_point() else cond == NULL
    return missing.flatten(1).all(1) if cond.ndim > 1 else missing


def all_null(cond: Cond) -> Tensor:
    """True for the samples without any condition, (B,)."""
    values = list(cond.values()) if isinstance(cond, dict) else [cond]
    return torch.stack([is_null(value) for value in values]).all(0)


def is_class(cond: Cond | None) -> bool:
    """True for conditions that are one class each, (B,) integers."""
    return isinstance(cond, Tensor) and cond.ndim == 1 and not cond.is_floating_point()


def class_of(cond: Cond | None) -> Tensor | None:
    """The class (B,) of each sample: the condition itself or the label among several; None if there is none."""
    value = cond.get("label") if isinstance(cond, dict) else cond
    return value if is_class(value) else None


# ---- what a user asks for ----


def in_turn(rows: Shaped[Tensor, "m *c"], n: int) -> Shaped[Tensor, "n *c"]:
    """Repeat rows in turn, n in all."""
    return rows[torch.arange(n, device=rows.device) % len(rows)]


def rows_from(value: Any, one: Tensor) -> Tensor:
    """The conditions (m, ...) that numbers, lists of them or an array stand for: one or several.

    Args:
        value: what a user gives; a single number stands for a vector of one.
        one: (1, ...), one condition, which says shape and dtype.

    Raises:
        ValueError: if they have another shape, or are not finite.
    """
    shape, integers = tuple(one.shape[1:]), not one.is_floating_point()
    kind = "an integer, or several" if integers else "a number, or several"
    wanted = kind if shape in ((), (1,)) else f"numbers of shape {shape}, or several of them"
    try:
        given = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else torch.float64).double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"must be {wanted}, got {value}") from error
    if shape == (1,) and given.ndim < 2:
        given = given.reshape(-1, 1)
    rows = given if given.ndim == one.ndim else given[None]
    if rows.shape[1:] != shape or not len(rows) or isinstance(value, bool):
        raise ValueError(f"must be {wanted}, got {value if given.numel() <= 16 else f'shape {tuple(given.shape)}'}")
    if bad := int((~rows.flatten(1).isfinite()).any(1).sum() if rows.ndim > 1 else (~rows.isfinite()).sum()):
        raise ValueError(f"must be finite, got NaN or infinity in {bad} of {len(rows)}")
    if integers and (rows != rows.round()).any():
        raise ValueError(f"must be {wanted}, got {value}")
    return rows.to(one.dtype)

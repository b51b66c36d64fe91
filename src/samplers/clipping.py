"""Clipping of the predicted data, which keeps samples in the range of the training data."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor


class NoClip:
    """No clipping."""

    def __call__(self, x_0: Tensor) -> Tensor:
        return x_0


class StaticClip:
    """Clip every element to a range.

    A network predicts a uniform background only almost. What clipping leaves of its errors is all on one side, and the
    next steps take it for data: a gray veil. With `snap` the background is exactly uniform, as in the data.

    Args:
        bound: b for [-b, b]; or the lowest and the highest values, [[low, ...], [high, ...]], of all channels or of
            each; None for no clipping.
        snap: values less than this above the lowest become the lowest: for data with many elements exactly there.
    """

    def __init__(
        self,
        bound: Annotated[float, Gt(0)] | Sequence[Sequence[float]] | None = 1.0,
        snap: Annotated[float, Ge(0)] = 0.0,
    ):
        if snap < 0:
            raise ValueError(f"clip.snap must be >= 0, got {snap}")
        self.bound: Any = bound
        self.snap = snap
        if bound is None:
            return
        if isinstance(bound, int | float):
            if bound <= 0:
                raise ValueError(f"clip.bound must be > 0, got {bound}; use clip=none for no clipping")
            self.low, self.high = [-float(bound)], [float(bound)]
            return
        ends = [list(end) for end in bound]
        if len(ends) != 2 or len(ends[0]) != len(ends[1]) or not all(a < b for a, b in zip(*ends, strict=True)):
            raise ValueError(f"clip.bound must be a number, or [[low, ...], [high, ...]] with low < high, got {bound}")
        self.low, self.high = ends

    def __call__(self, x_0: Tensor) -> Tensor:
        if self.bound is None:
            return x_0
        if len(self.low) == 1 and not self.snap:
            return x_0.clamp(self.low[0], self.high[0])
        low, high = (
            torch.tensor(end, dtype=x_0.dtype, device=x_0.device).view(-1, *[1] * (x_0.ndim - 2))
            for end in (self.low, self.high)
        )
        clipped = x_0.clamp(low, high)
        return torch.where(clipped < low + self.snap, low, clipped) if self.snap else clipped


class DynamicClip:
    r"""Clip each sample to [-s, s], where s is a quantile of its absolute values, and rescale it to [-bound, bound].

    .. math:: \hat x_0 \leftarrow \operatorname{clip}(\hat x_0, -s, s) \cdot \text{bound} / s, \quad
              s = \max(\text{bound}, Q_p(|\hat x_0|))

    Source: Saharia et al. 2022, arXiv:2205.11487, section 2.3 and appendix A.
    """

    def __init__(self, quantile: Annotated[float, Interval(gt=0, le=1)] = 0.995, bound: Annotated[float, Gt(0)] = 1.0):
        if not 0 < quantile <= 1 or bound <= 0:
            raise ValueError(f"clip.quantile must be in (0, 1] and clip.bound must be > 0, got {quantile} and {bound}")
        self.quantile, self.bound = quantile, bound

    def __call__(self, x_0: Tensor) -> Tensor:
        size = x_0.flatten(1).abs().to(torch.promote_types(x_0.dtype, torch.float32))
        s = size.quantile(self.quantile, dim=1).to(x_0).clamp(min=self.bound)
        s = s.view(-1, *[1] * (x_0.ndim - 1))
        return x_0.clamp(-s, s) * (self.bound / s)

"""The sine waves that fit signals best."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

SPACING = 0.05  # of the first grid; the explained power has peaks about one cycle per window wide
ZOOM = 10  # by which each further grid is finer
LOWEST = 0.05  # below, a sine is a straight line
PART = 1000  # signals fitted at a time


class SineFit(NamedTuple):
    """The sine waves that fit signals (N, L) best, each (N,) float64.

    frequency: in cycles per window.
    amplitude: in the units of the signal, 0 or more.
    phase: in radians, in [0, 2 pi).
    residual: rms of what they leave over, in the units of the signal.
    outside: share of the power that they leave over; 0 of a signal that is 0.
    """

    frequency: Tensor
    amplitude: Tensor
    phase: Tensor
    residual: Tensor
    outside: Tensor

    def waves(self, length: int) -> Float[Tensor, "n length"]:
        """The waves themselves."""
        angles = 2 * math.pi * self.frequency[:, None] * positions(length) + self.phase[:, None]
        return self.amplitude[:, None] * angles.sin()


def fit_sines(x: Float[Tensor, "n length"], low: float = 0.5, high: float = 4.0) -> SineFit:
    r"""Least squares of sine waves, with a search for f in [low, high] by ever finer grids.

    .. math:: \min_{a, f, \varphi} \sum_u \left( x(u) - a \sin(2 \pi f u + \varphi) \right)^2,
              \quad u = 0, \dots, 1 \text{ in } L \text{ steps}

    For each f the best a and phi follow in closed form, and what is maximised is the power that they explain.
    """
    parts = [_fit(part, max(low, LOWEST), high) for part in x.detach().double().cpu().split(PART)]
    return SineFit(*(torch.cat(values) for values in zip(*parts, strict=True)))


def search_range(low: float, high: float) -> tuple[float, float]:
    """Where to look for frequencies that a law has between low and high: an octave below, a cycle above."""
    return low / 2, high + 1


def positions(length: int) -> Float[Tensor, " length"]:
    """u."""
    return torch.linspace(0, 1, length, dtype=torch.float64)


def _fit(x: Tensor, low: float, high: float) -> SineFit:
    grid = torch.linspace(low, high, max(2, math.ceil((high - low) / SPACING) + 1), dtype=x.dtype)
    best, width = grid[_explained(x, grid).argmax(1)], SPACING
    around = torch.linspace(-1, 1, 2 * ZOOM + 1, dtype=x.dtype)
    for _ in range(4):
        f = (best[:, None] + width * around).clamp(low, high)
        best, width = f.gather(1, _explained(x, f).argmax(1, keepdim=True))[:, 0], width / ZOOM
    angles = 2 * math.pi * best[:, None] * positions(x.shape[1])
    waves = torch.stack([angles.sin(), angles.cos()], -1)
    weights = torch.linalg.lstsq(waves, x[..., None]).solution
    left = x - (waves @ weights)[..., 0]
    along_sin, along_cos = weights[..., 0].unbind(1)
    power = x.square().sum(1)
    outside = torch.where(power > 0, left.square().sum(1) / power, 0.0)
    phase = torch.atan2(along_cos, along_sin) % (2 * math.pi)
    return SineFit(best, torch.hypot(along_sin, along_cos), phase, left.square().mean(1).sqrt(), outside)


def _explained(x: Tensor, f: Tensor) -> Tensor:
    """The power of x (N, L) in the plane of sine and cosine of each of the frequencies (F,) or (N, F): (N, F)."""
    angles = 2 * math.pi * f[..., None] * positions(x.shape[1])
    s, c = angles.sin(), angles.cos()
    ss, sc, cc = (s * s).sum(-1), (s * c).sum(-1), (c * c).sum(-1)
    xs, xc = (torch.einsum("nl,nfl->nf" if f.ndim == 2 else "nl,fl->nf", x, v) for v in (s, c))
    return (cc * xs**2 - 2 * sc * xs * xc + ss * xc**2) / (ss * cc - sc**2)

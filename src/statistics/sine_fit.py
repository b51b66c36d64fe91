"""Least-squares fits of sine waves to signals."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

SPACING = 0.05  # of the first frequency grid; peaks of the explained power are about one cycle per window wide
ZOOM = 10  # refinement factor of each further grid
MIN_FREQUENCY = 0.05  # below, a sine is a straight line
CHUNK = 1000  # signals fitted at a time


class SineFit(NamedTuple):
    """The best sine wave of each of N signals, all (N,) float64.

    Attributes:
        frequency: in cycles per window.
        amplitude: >= 0, in the units of the signal.
        phase: in radians, in [0, 2 pi).
        residual: root mean square of the residual, in the units of the signal.
        unexplained: fraction of the power in the residual; 0 for a zero signal.
    """

    frequency: Tensor
    amplitude: Tensor
    phase: Tensor
    residual: Tensor
    unexplained: Tensor

    def waves(self, length: int) -> Float[Tensor, "n length"]:
        """The fitted waves."""
        angles = 2 * math.pi * self.frequency[:, None] * positions(length) + self.phase[:, None]
        return self.amplitude[:, None] * angles.sin()


def fit_sines(x: Float[Tensor, "n length"], low: float = 0.5, high: float = 4.0) -> SineFit:
    r"""Fit sine waves by least squares, with a search for f in [low, high] on successively finer grids.

    .. math:: \min_{a, f, \varphi} \sum_u \left( x(u) - a \sin(2 \pi f u + \varphi) \right)^2,
              \quad u = 0, \dots, 1 \text{ in } L \text{ steps}

    For each f, the best a and phi have a closed form; the search maximizes the power that they explain.
    """
    parts = [_fit(part, max(low, MIN_FREQUENCY), high) for part in x.double().cpu().split(CHUNK)]
    return SineFit(*(torch.cat(values) for values in zip(*parts, strict=True)))


def search_range(low: float, high: float) -> tuple[float, float]:
    """The search interval for frequencies distributed on [low, high]: an octave below to one cycle above."""
    return low / 2, high + 1


def positions(length: int) -> Float[Tensor, " length"]:
    """The positions u of the elements of a signal, in [0, 1]."""
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
    residual = x - (waves @ weights)[..., 0]
    along_sin, along_cos = weights[..., 0].unbind(1)
    power = x.square().sum(1)
    unexplained = torch.where(power > 0, residual.square().sum(1) / power, 0.0)
    phase = torch.atan2(along_cos, along_sin) % (2 * math.pi)
    return SineFit(best, torch.hypot(along_sin, along_cos), phase, residual.square().mean(1).sqrt(), unexplained)


def _explained(x: Tensor, f: Tensor) -> Tensor:
    """The power (N, F) of x (N, L) explained by sine and cosine at each of the frequencies (F,) or (N, F)."""
    angles = 2 * math.pi * f[..., None] * positions(x.shape[1])
    s, c = angles.sin(), angles.cos()
    ss, sc, cc = (s * s).sum(-1), (s * c).sum(-1), (c * c).sum(-1)
    xs, xc = (torch.einsum("nl,nfl->nf" if f.ndim == 2 else "nl,fl->nf", x, v) for v in (s, c))
    return (cc * xs**2 - 2 * sc * xs * xc + ss * xc**2) / (ss * cc - sc**2)

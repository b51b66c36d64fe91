r"""Linear operators A of measurements :math:`y = A x_0`, with a closed form of the inverse of :math:`A A^T`.

Shapes: x (B, C, *S); y (B, ...). Spatial axes are those from the third on: one for signals, two for images.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

# Lower bound of gain² + ridge of a blur as a divisor: frequencies below 1 % are left to the prior.
FAINTEST = 1e-4


class LinearOperator(ABC):
    """A linear operator A. A new one is three methods."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """A x."""

    @abstractmethod
    def transpose(self, y: Tensor) -> Tensor:
        r""":math:`A^T y`, with :math:`\langle A x, y \rangle = \langle x, A^T y \rangle`; shaped as x."""

    @abstractmethod
    def solve(self, y: Tensor, ridge: Tensor | float = 0.0) -> Tensor:
        r""":math:`(A A^T + \text{ridge}\, I)^{-1} y`, for y in the range of A; ridge is one number or (B, 1, ...)."""

    def observe(self, x: Tensor) -> Tensor:
        """A x, with NaN for elements that say nothing about x."""
        return self(x)

    def pinv(self, y: Tensor) -> Tensor:
        r""":math:`A^+ y = A^T (A A^T)^{-1} y`, the smallest x with A x = y."""
        return self.transpose(self.solve(y))


class Mask(LinearOperator):
    """Keep the known elements; y is shaped as x, with zeros elsewhere.

    Args:
        known: 1 where known, else 0, (B or 1, C or 1, *S).
    """

    def __init__(self, known: Tensor):
        self.known = known

    def __call__(self, x: Tensor) -> Tensor:
        return self.known_as(x) * x

    def transpose(self, y: Tensor) -> Tensor:
        return self.known_as(y) * y

    def solve(self, y: Tensor, ridge: Tensor | float = 0.0) -> Tensor:
        return y / (1 + ridge)

    def observe(self, x: Tensor) -> Tensor:
        return torch.where(self.known_as(x) > 0, x, torch.nan)

    def known_as(self, x: Tensor) -> Tensor:
        """On the device of x, which is not waited for."""
        return self.known.to(x.device, x.dtype, non_blocking=True)


class Downsample(LinearOperator):
    """Average blocks of elements, as in super-resolution.

    Args:
        factor: length of a block along each spatial axis; it must divide the axis.
    """

    def __init__(self, factor: int):
        if factor < 1:
            raise ValueError(f"factor must be >= 1, got {factor}")
        self.factor = factor

    def __call__(self, x: Tensor) -> Tensor:
        for axis in range(2, x.ndim):
            x = x.unflatten(axis, (-1, self.factor)).mean(axis + 1)
        return x

    def transpose(self, y: Tensor) -> Tensor:
        for axis in range(2, y.ndim):
            y = y.repeat_interleave(self.factor, axis) / self.factor
        return y

    def solve(self, y: Tensor, ridge: Tensor | float = 0.0) -> Tensor:
        return y / (self.factor ** (2 - y.ndim) + ridge)


class Grayscale(LinearOperator):
    """Weighted sum of the channels: a grayscale image.

    Args:
        weights: one per channel; by default those of luma for red, green and blue, which sum to 1.

    Source: ITU-R BT.601.
    """

    def __init__(self, weights: Sequence[float] = (0.299, 0.587, 0.114)):
        self.weights = torch.tensor(weights, dtype=torch.float64)

    def __call__(self, x: Tensor) -> Tensor:
        return (self.like(x) * x).sum(1, keepdim=True)

    def transpose(self, y: Tensor) -> Tensor:
        return self.like(y) * y

    def solve(self, y: Tensor, ridge: Tensor | float = 0.0) -> Tensor:
        return y / (float(self.weights @ self.weights) + ridge)

    def like(self, x: Tensor) -> Tensor:
        """The weights, (C, 1, ...)."""
        return self.weights.to(x).view(-1, *[1] * (x.ndim - 2))


class Blur(LinearOperator):
    r"""Gaussian blur with periodic boundaries.

    .. math:: \mathcal{F}[A x](f) = e^{-(2 \pi w)^2 |f|^2 / 2}\, \mathcal{F}[x](f)

    with f in cycles per element. It is symmetric and diagonal in Fourier space. The inverse clamps its square plus the
    ridge to `FAINTEST`, so that rounding errors are not amplified: such frequencies are not restored.

    Args:
        width: w, the standard deviation of the blur in elements.
    """

    def __init__(self, width: float):
        if width <= 0:
            raise ValueError(f"width must be > 0, got {width}")
        self.width = width

    def __call__(self, x: Tensor) -> Tensor:
        return filtered(x, self.gain(x))

    def transpose(self, y: Tensor) -> Tensor:
        return self(y)

    def solve(self, y: Tensor, ridge: Tensor | float = 0.0) -> Tensor:
        return filtered(y, 1 / (self.gain(y) ** 2 + ridge).clamp(min=FAINTEST))

    def gain(self, x: Tensor) -> Tensor:
        """The transfer function (*S): the factor of each frequency of x."""
        gain = x.new_ones(())
        for n in x.shape[2:]:
            f = torch.fft.fftfreq(n, dtype=x.dtype, device=x.device)
            gain = gain[..., None] * torch.exp(-((2 * math.pi * self.width * f) ** 2) / 2)
        return gain


def filtered(x: Tensor, gain: Tensor) -> Tensor:
    """Multiply the frequencies of x by a gain, which must be even in f."""
    axes = tuple(range(2, x.ndim))
    return torch.fft.ifftn(torch.fft.fftn(x, dim=axes) * gain, dim=axes).real

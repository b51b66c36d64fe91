r"""Linear measurements :math:`y = A x_0`, whose :math:`A A^T` is easily inverted: each says how.

Shapes: x (B, C, *S); y (B, ...), that of A x. Spatial axes are those from the third on, of signals one, of images two.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

# Of a blur, the least (gain² + ridge) that is divided by: frequencies fainter than 1 % are left to the prior.
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

    def pinv(self, y: Tensor) -> Tensor:
        r""":math:`A^+ y = A^T (A A^T)^{-1} y`, the smallest x with A x = y."""
        return self.transpose(self.solve(y))


class Mask(LinearOperator):
    """Keeps the known elements; y is shaped as x, with zeros for the others.

    Args:
        known: 1 where known, else 0; (B or 1, C or 1, *S).
    """

    def __init__(self, known: Tensor):
        self.known = known

    def __call__(self, x: Tensor) -> Tensor:
        return self.known.to(x) * x

    def transpose(self, y: Tensor) -> Tensor:
        return self.known.to(y) * y

    def solve(self, y: Tensor, ridge: Tensor | float = 0.0) -> Tensor:
        return y / (1 + ridge)


class Downsample(LinearOperator):
    """The mean of each block of elements: a smaller picture.

    Args:
        factor: elements of a block along each spatial axis, whose lengths it must divide.
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
    """A weighted sum of the channels: a picture without its colours.

    Args:
        weights: one for each channel; by default those of red, green and blue in luma, which sum to 1.

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
    r"""A Gaussian blur of what goes on around the edges as at the other side.

    .. math:: \mathcal{F}[A x](f) = e^{-(2 \pi w)^2 |f|^2 / 2}\, \mathcal{F}[x](f)

    with f in cycles an element. It is symmetric, and diagonal in Fourier space. Where its square and the ridge are
    below `FAINTEST` the inverse takes that instead, lest rounding be enlarged: such frequencies are not restored.

    Args:
        width: w, the standard deviation of the blur, in elements.
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
        """What each frequency of x is multiplied by, (*S)."""
        gain = x.new_ones(())
        for n in x.shape[2:]:
            f = torch.fft.fftfreq(n, dtype=x.dtype, device=x.device)
            gain = gain[..., None] * torch.exp(-((2 * math.pi * self.width * f) ** 2) / 2)
        return gain


def filtered(x: Tensor, gain: Tensor) -> Tensor:
    """x with its frequencies multiplied by a gain that is the same for f and -f."""
    axes = tuple(range(2, x.ndim))
    return torch.fft.ifftn(torch.fft.fftn(x, dim=axes) * gain, dim=axes).real

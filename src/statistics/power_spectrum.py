"""Power spectra of signals, images, fields and volumes."""

from collections.abc import Iterable

import torch
from torch import Tensor

MIN_POWER = 1e-6  # relative to the peak: lower power counts as this


def power(x: Tensor) -> Tensor:
    """The squared amplitude (B, *S) of each frequency of fftn with norm "ortho", averaged over channels."""
    return torch.fft.fftn(x, dim=tuple(range(2, x.ndim)), norm="ortho").abs().double().square().mean(1)


def mean_power(parts: Iterable[Tensor]) -> Tensor:
    """The mean squared amplitude (*S), float64, of each frequency of fftn with norm "ortho", of samples (n, C, *S)."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for x in parts:
        total = total + power(x).sum(0)
        count += len(x)
    return total / count


def along_axes(power: Tensor) -> list[Tensor]:
    """The spectra (n // 2 + 1,) of the lines along each axis, from the power (*S) of each frequency."""
    every = range(power.ndim)
    return [power.mean([a for a in every if a != axis])[: n // 2 + 1] for axis, n in enumerate(power.shape)]


def radial_frequency(size: Iterable[int]) -> Tensor:
    """The norm (*S) of each frequency of fftn, in cycles per element."""
    squared = torch.zeros((), dtype=torch.float64)
    for n in size:
        squared = squared[..., None] + torch.fft.fftfreq(n, dtype=torch.float64).square()
    return squared.sqrt()


def radial(power: Tensor) -> tuple[Tensor, Tensor]:
    """The frequencies (K,), in cycles per element, and the mean power (K,) in rings around 0, from the power (*S).

    A ring is as wide as the lowest frequency of the longest axis. Frequencies above 1/2, in the corners, are left out.
    """
    longest = max(power.shape)
    ring = (radial_frequency(power.shape) * longest).round().long().flatten()
    k = longest // 2 + 1
    sums = torch.zeros(int(ring.max()) + 1, dtype=power.dtype).index_add_(0, ring, power.flatten())[:k]
    counts = ring.bincount()[:k]
    there = counts > 0
    return torch.arange(k)[there] / longest, sums[there] / counts[there]


def variance(power: Tensor) -> float:
    """The variance within a sample: the mean power of the frequencies other than 0."""
    return ((power.sum() - power.flatten()[0]) / power.numel()).item()


def rms_decibels(power: Tensor, reference: Tensor) -> float:
    """The root mean square over frequencies of the ratio of powers (K,) in dB; power below MIN_POWER is set to it."""
    least = MIN_POWER * reference.max()
    return (10 * (power.clamp(min=least) / reference.clamp(min=least)).log10()).square().mean().sqrt().item()

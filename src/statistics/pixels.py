"""Statistics of the elements of samples: the pixels of images, the points of signals, the cells of fields and volumes.

All follow from means over samples, so that they are computed in one pass, and their errors by leaving out a group of
samples in turn.
"""

from collections.abc import Callable, Iterable, Mapping
from math import nan
from typing import NamedTuple

import torch
from torch import Tensor

from src.statistics.power_spectrum import power, radial, radial_frequency, rms_decibels

GROUPS = 10  # of samples, for the errors
STEPS = 255  # between the lowest and the highest value in the histogram, as in images of 8 bits
FINE = 0.25  # cycles per element: higher frequencies are fine detail
FAINT = 1e-8  # power, relative to that of one element from end to end of the range, below which there is none

Means = Mapping[str, Tensor]


class ValueRange(NamedTuple):
    """The lowest and the highest value of each channel (C,), float64."""

    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, parts: Iterable[Tensor]) -> "ValueRange":
        """The range of samples, given some (n, C, *S) at a time; of a constant channel one unit wide."""
        low, high = zip(*((x.transpose(0, 1).flatten(1).aminmax(dim=1)) for x in parts), strict=True)
        least, most = torch.stack(low).amin(0).double(), torch.stack(high).amax(0).double()
        return cls(least, torch.where(most > least, most, least + 1))

    @property
    def width(self) -> float | None:
        """The width, if all channels have the same range."""
        common = len({*zip(self.low.tolist(), self.high.tolist(), strict=True)}) == 1
        return (self.high - self.low)[0].item() if common else None

    def to_unit(self, x: Tensor) -> Tensor:
        """Map samples (B, C, *S) to [0, 1]."""
        low, high = (end.view(-1, *[1] * (x.ndim - 2)) for end in self)
        return (x - low) / (high - low)

    def from_unit(self, x: Tensor) -> Tensor:
        """Map values (C, *S) in [0, 1] to the units of the data."""
        low, high = (end.view(-1, *[1] * (x.ndim - 1)) for end in self)
        return low + (high - low) * x


def summaries(x: Tensor) -> dict[str, Tensor]:
    """What is averaged over samples x (B, C, *S), whose range is [0, 1] in each channel; each (B, ...)."""
    flat = x.flatten(2).double()
    level = (flat * STEPS).round().clamp(-1, STEPS + 1).long().flatten(1) + 1
    histogram = flat.new_zeros(len(x), STEPS + 3).scatter_add_(1, level, flat.new_ones(()).expand(level.shape))
    return {
        "channels": flat.mean(2),
        "products": flat @ flat.transpose(1, 2) / flat.shape[2],
        "contrast": flat.var(2, unbiased=False).mean(1).sqrt(),
        "histogram": histogram / level.shape[1],
        "power": power(x.float()),
        "elements": x.double(),
        "squares": x.double().square(),
    }


class GroupedMeans(NamedTuple):
    """Sums of the summaries over groups of samples.

    Attributes:
        sums: (G, ...) by name.
        counts: (G,) numbers of samples.
    """

    sums: dict[str, Tensor]
    counts: Tensor

    @classmethod
    def of(cls, parts: Iterable[Tensor]) -> "GroupedMeans":
        """Sum over samples, given some (n, C, *S) at a time, in groups of every tenth."""
        sums: dict[str, Tensor] = {}
        counts, done = torch.zeros(GROUPS, dtype=torch.int64), 0
        for x in parts:
            group = (done + torch.arange(len(x))) % GROUPS
            for name, value in summaries(x).items():
                into = sums.setdefault(name, value.new_zeros(GROUPS, *value.shape[1:]))
                into.index_add_(0, group, value)
            counts += group.bincount(minlength=GROUPS)
            done += len(x)
        return cls(sums, counts)

    @property
    def means(self) -> Means:
        """The means over all samples."""
        return {name: value.sum(0) / self.counts.sum() for name, value in self.sums.items()}

    def estimate(self, statistics: Callable[[Means], dict[str, float]]) -> dict[str, tuple[float, float]]:
        r"""Statistics of the means, and their standard errors by the delete-group jackknife.

        .. math:: s^2 = \frac{G - 1}{G} \sum_g (\theta_{-g} - \bar\theta)^2

        Source: Shao, Tu 1995, The Jackknife and Bootstrap, section 2.3.
        """
        found, n = statistics(self.means), self.counts.sum()
        there = self.counts.nonzero().flatten().tolist()
        if len(there) < 2:
            return {name: (value, nan) for name, value in found.items()}
        without = [
            statistics({name: (v.sum(0) - v[g]) / (n - self.counts[g]) for name, v in self.sums.items()}) for g in there
        ]
        again = torch.tensor([list(each.values()) for each in without], dtype=torch.float64)
        error = ((len(there) - 1) * again.var(0, unbiased=False)).sqrt().tolist()
        return {name: (value, e) for (name, value), e in zip(found.items(), error, strict=True)}


def statistics(means: Means) -> dict[str, float]:
    """The mean and the contrast of samples, as fractions of the range, and the percentages at its ends.

    The contrast is the standard deviation within a sample. The ends are half a step of 8 bits wide.
    """
    histogram = means["histogram"]
    return {
        "mean": means["channels"].mean().item(),
        "contrast": means["contrast"].item(),
        "low_percent": 100 * histogram[:2].sum().item(),
        "high_percent": 100 * histogram[-2:].sum().item(),
    }


def bias(means: Means, real: Means, positive: bool) -> dict[str, float]:
    """The differences of samples from real data.

    Args:
        means, real: of samples and of real data.
        positive: True if the lowest value is a natural zero, as in images: the mean is then relative to that of the
            real data, else to their standard deviation.
    """
    spread = covariance(real).trace().div(len(real["channels"])).sqrt()
    scale = real["channels"].mean() if positive else spread
    (frequency, ours), (_, theirs) = (radial(m["power"]) for m in (means, real))
    shift = means["channels"] - real["channels"]
    element_spread = element_std(real).square().mean().sqrt()
    found = {
        "mean_bias_percent": percent(shift.mean(), scale),
        "contrast_bias_percent": percent(means["contrast"] - real["contrast"], real["contrast"]),
        "histogram_distance": (means["histogram"] - real["histogram"]).abs().sum().item() / 2,
        "element_mean_percent": percent(rms(means["elements"] - real["elements"]), element_spread),
        "element_spread_percent": percent(rms(element_std(means) - element_std(real)), element_spread),
        "radial_spectrum_db": rms_decibels(ours[frequency > 0], theirs[frequency > 0]),
        "fine_detail_db": decibels(fine_power(means["power"]), fine_power(real["power"])),
    }
    if len(shift) > 1:
        found["channel_mean_percent"] = percent((shift - shift.mean()).abs().max(), scale)
        change = covariance(means) - covariance(real)
        found["channel_covariance_percent"] = percent(change.norm(), covariance(real).norm())
    return found


def covariance(means: Means) -> Tensor:
    """The covariance (C, C) of the channels over all elements of all samples."""
    return means["products"] - torch.outer(means["channels"], means["channels"])


def element_std(means: Means) -> Tensor:
    """The standard deviation (C, *S) of each element over the samples."""
    return (means["squares"] - means["elements"].square()).clamp(min=0).sqrt()


def fine_power(power: Tensor) -> Tensor:
    """The power at frequencies above 1/4 cycle per element, of the power (*S) of each frequency."""
    return power[radial_frequency(power.shape) > FINE].sum()


def rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


def percent(part: Tensor, whole: Tensor) -> float:
    """100 part / whole; NaN if the whole is not positive."""
    return 100 * (part / whole).item() if whole > 0 else nan


def decibels(power: Tensor, reference: Tensor) -> float:
    """The ratio of two powers in dB; NaN if one is not positive."""
    return 10 * (power / reference).log10().item() if power > 0 and reference > 0 else nan


def radial_bands(power: Tensor, bands: int = 6) -> Tensor:
    """The power in dB (B, K) in bands of the norm of the frequency, equally wide in octaves, of the power (B, *S)."""
    frequency = radial_frequency(power.shape[1:]).flatten()
    lowest, highest = frequency[frequency > 0].min().log2(), frequency.max().log2()
    band = ((frequency.clamp(min=1e-12).log2() - lowest) / (highest - lowest).clamp(min=1e-12) * bands).floor()
    found = []
    for k in range(bands):
        inside = (band.clamp(max=bands - 1) == k) & (frequency > 0)
        if inside.any():
            found.append(power.flatten(1)[:, inside].mean(1))
    return 10 * torch.stack(found, 1).clamp(min=FAINT).log10()

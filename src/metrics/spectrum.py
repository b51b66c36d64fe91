"""Power spectra of fields and volumes: samples against data."""

from collections.abc import Iterable

import torch
from torch import Tensor

from src.metrics.base import EvalContext, Metric, MetricValue, Picture, ReportSection
from src.metrics.signals import MIN_POWER, rms_decibels
from src.plots.metrics import axis_spectra

AXES = {2: "HW", 3: "DHW"}
CHUNK = 256  # samples per Fourier transform


class Spectrum(Metric):
    """The power spectra along each axis, and the variance, of samples and test data.

    The spectrum along an axis is the mean periodogram of the lines along it, over positions, channels and samples. Data
    that know their spectrum, with an attribute `power` (*S) for the variance of each frequency of fftn with the norm
    "ortho", are compared with it instead of the test data.
    """

    kinds = ("fields", "volumes")

    def __call__(self, context: EvalContext) -> ReportSection:
        names = AXES[len(context.data.size)]
        power: Tensor | None = getattr(context.data, "power", None)
        test = mean_power(batch["x"] for batch in context.test.batches(CHUNK))
        reference = test if power is None else power.double()
        real = mean_power(context.train.some(len(context.x), "spectrum", context.seed)["x"].split(CHUNK))
        found = mean_power(context.x.split(CHUNK))
        of = "the test data" if power is None else "the known spectrum"
        section = ReportSection("Power spectrum", notes=[HOW_TO_READ.format(of=of)])
        curves = {
            name: along_axes(each)
            for name, each in (("data" if power is None else "known", reference), ("samples", found))
        }
        expected, ours, baseline = along_axes(reference), along_axes(found), along_axes(real)
        for name, target, sample, data in zip(names, expected, ours, baseline, strict=True):
            section.values[f"spectrum_{name}_db"] = MetricValue(
                f"spectrum along {name}, rms difference from {of} (dB)",
                rms_decibels(sample[1:], target[1:]), real_baseline=rms_decibels(data[1:], target[1:]), better="lower",
            )  # fmt: skip
        ratio, real_ratio = (variance(v) / variance(reference) for v in (found, real))
        section.values["variance_ratio"] = MetricValue(
            f"variance of the samples, relative to {of}", ratio, real_baseline=real_ratio, digits=4
        )
        section.tables = {
            f"spectrum of {name} along {axis}": curve.tolist()
            for name, each in curves.items()
            for axis, curve in zip(names, each, strict=True)
        }
        caption = f"Power spectra of {len(context.x):,} samples and of {of.removeprefix('the ')}, along each axis"
        section.pictures["spectra"] = Picture(axis_spectra(curves, names, context.data.size, MIN_POWER), caption)
        return section


HOW_TO_READ = (
    "The spectrum along an axis is the mean periodogram of the lines along it. The difference from that of {of} is the "
    "root mean square, over the frequencies above 0, of the ratio in decibels: 1 dB is 26 % in power. The real-data "
    "baseline is that of as many training data. The variance is that around zero frequency, the mean of each sample."
)


def mean_power(parts: Iterable[Tensor]) -> Tensor:
    """The mean squared amplitude (*S), float64, of each frequency of fftn with norm "ortho", of samples (n, C, *S)."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for x in parts:
        amplitude = torch.fft.fftn(x, dim=tuple(range(2, x.ndim)), norm="ortho").abs()
        total = total + amplitude.double().square().sum((0, 1))
        count += len(x) * x.shape[1]
    return total / count


def along_axes(power: Tensor) -> list[Tensor]:
    """The spectra (n // 2 + 1,) of the lines along each axis, from the power (*S) of each frequency."""
    every = range(power.ndim)
    return [power.mean([a for a in every if a != axis])[: n // 2 + 1] for axis, n in enumerate(power.shape)]


def variance(power: Tensor) -> float:
    """The variance within a sample: the mean power of the frequencies other than 0."""
    return ((power.sum() - power.flatten()[0]) / power.numel()).item()

"""Power spectra of fields and volumes: samples against data."""

from torch import Tensor

from src.metrics.base import EvalContext, Metric, MetricValue, Picture, ReportSection
from src.plots.metrics import axis_spectra
from src.statistics.power_spectrum import MIN_POWER, along_axes, mean_power, rms_decibels, variance

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

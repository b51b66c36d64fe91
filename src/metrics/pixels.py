"""The pixels of images, and the elements of signals, fields and volumes, against those of the data."""

from collections.abc import Mapping
from math import hypot, isfinite
from typing import NamedTuple

from torch import Tensor

from src.metrics.base import EvalContext, Metric, MetricValue, Picture, ReportSection
from src.metrics.features.base import BATCH_SIZE, ReferenceData
from src.plots.pixels import distributions, element_maps
from src.statistics.pixels import GroupedMeans, Means, ValueRange, bias, element_std, statistics

SMALL_PERCENT, SMALL_DB = 2.0, 0.5  # smaller biases are not mentioned
SURE = 4  # standard errors: with ten groups and eight biases, one report in fifty names a bias that is none
LOGGED = ("mean_bias_percent", "contrast_bias_percent", "low_percent", "histogram_distance", "fine_detail_db")
UNSIGNED = (
    "histogram_distance", "element_mean_percent", "element_spread_percent", "radial_spectrum_db",
    "channel_mean_percent", "channel_covariance_percent",
)  # fmt: skip


class Comparison(NamedTuple):
    """A statistic of the samples, of as many training data, and of the test data, with their standard errors."""

    value: float
    error: float
    real: float
    real_error: float
    test: float

    @property
    def differs(self) -> bool:
        """True if samples and training data surely differ, and the samples are farther from the test data."""
        farther = abs(self.value - self.test) > abs(self.real - self.test)
        return farther and abs(self.value - self.real) > SURE * hypot(self.error, self.real_error)


class Pixels(Metric):
    """Mean, contrast, histogram, mean and spread of each element, spectrum and channels, beside those of the test data.

    Each channel has the range of the data module, or else that of the test data. The real-data baseline is that of as
    many training data.
    """

    kinds = ("signals", "images", "fields", "volumes")
    min_samples = 2

    def __call__(self, context: EvalContext) -> ReportSection:
        reference = context.reference
        drawn = context.train.some(len(context.x), "pixels", context.seed)["x"]
        test, samples, real = reference.pixels, grouped_means(context.x, reference), grouped_means(drawn, reference)
        own, of_real, of_test = (
            each.estimate(lambda means: compare_pixels(means, reference)) for each in (samples, real, test)
        )
        found = {name: Comparison(*own[name], *of_real[name], of_test[name][0]) for name in own}
        found = {name: e for name, e in found.items() if isfinite(e.real)}  # what these data have
        names = titles(reference)
        section = ReportSection(names["section"], notes=[HOW_TO_READ])
        section.values = {name: metric_value(names[name], name in UNSIGNED, e) for name, e in found.items()}
        bias = in_words(found, names)
        section.headline = {"bias": bias}
        section.interpretation = f"{bias[:1].upper()}{bias[1:]}."
        moments, ends = {"samples": samples.means, "test data": test.means}, reference.value_range
        section.tables["channels"] = {
            name: {"mean": ends.from_unit(m["channels"]).tolist(), "std": channel_std(m, ends)}
            for name, m in moments.items()
        }
        section.pictures = pixel_pictures(moments, reference, names)
        return section


def grouped_means(x: Tensor, reference: ReferenceData) -> GroupedMeans:
    """The summaries of samples (N, C, *S) in the units of the data."""
    return GroupedMeans.of(reference.value_range.to_unit(part) for part in x.split(BATCH_SIZE))


def compare_pixels(means: Means, reference: ReferenceData) -> dict[str, float]:
    """The statistics of samples, in the units of the data if the channels share a range, and those beside test data."""
    found, ends = statistics(means), reference.value_range
    if ends.width is not None:
        found["mean"] = ends.low[0].item() + ends.width * found["mean"]
        found["contrast"] *= ends.width
    return found | bias(means, reference.pixels.means, positive=reference.kind == "images")


def channel_std(means: Means, ends: ValueRange) -> list[float]:
    """The standard deviation of each channel in the units of the data."""
    variance = means["products"].diagonal() - means["channels"].square()
    return (variance.clamp(min=0).sqrt() * (ends.high - ends.low)).tolist()


def metric_value(name: str, unsigned: bool, e: Comparison) -> MetricValue:
    """A statistic with its interval, which leaves out other training seeds."""
    low, high = (e.value + sign * 1.96 * e.error for sign in (-1, 1))
    low = max(low, 0.0) if unsigned or name.endswith(" (%)") else low
    known = isfinite(e.error)
    better = "lower" if unsigned else None
    return MetricValue(name, e.value, low if known else None, high if known else None, e.real, better)  # type: ignore[arg-type]


def titles(reference: ReferenceData) -> dict[str, str]:
    """The names of the statistics for a kind of data, by key."""
    images, ends = reference.kind == "images", reference.value_range
    each = "pixel" if images else "element"
    mean, whole = ("brightness", "of the real one") if images else ("mean", "of the real standard deviation")
    if images and reference.data.channels == 1:
        low, high = "pixels black", "pixels white"
    elif ends.width is not None:
        low, high = (f"values {side} {end[0].item():.4g}" for side, end in (("at", ends.low), ("at", ends.high)))
    else:
        low, high = "values at the lower end of the range", "values at the upper end of the range"
    units = "" if ends.width is not None else " (fraction of the range)"
    return {
        "section": f"{each.capitalize()}s",
        "element": each,
        "bias": mean,
        "whole": whole,
        "low": low,
        "high": high,
        "mean": f"{mean}{units}",
        "contrast": f"contrast, standard deviation within a sample{units}",
        "low_percent": f"{low} (%)",
        "high_percent": f"{high} (%)",
        "mean_bias_percent": f"{mean}, difference from the test data (% {whole})",
        "contrast_bias_percent": "contrast, difference from the test data (% of the real one)",
        "histogram_distance": f"histogram of the {each}s, total variation",
        "element_mean_percent": f"mean of each {each}, rms difference (% of the real standard deviation)",
        "element_spread_percent": f"standard deviation of each {each}, rms difference (% of the real one)",
        "radial_spectrum_db": "spectrum by the norm of the frequency, rms difference (dB)",
        "fine_detail_db": "power above 1/4 cycle per element, relative to the test data (dB)",
        "channel_mean_percent": f"means of the channels apart from the common one, largest difference (% {whole})",
        "channel_covariance_percent": "covariance of the channels, difference (% of the real norm)",
    }


def in_words(found: Mapping[str, Comparison], names: Mapping[str, str]) -> str:
    """The biases beyond those of as many real data, as a phrase."""
    said = []
    for key, name, whole in (
        ("mean_bias_percent", names["bias"], names["whole"]),
        ("contrast_bias_percent", "contrast", "of the real one"),
    ):
        if (e := found.get(key)) and e.differs and abs(e.value) >= SMALL_PERCENT:
            said.append(f"{name} {e.value:+.2g} % {whole} (floor {e.real:+.2g} %)")
    for key, name in (("low_percent", names["low"]), ("high_percent", names["high"])):
        if (e := found.get(key)) and e.differs and abs(e.value - e.test) >= SMALL_PERCENT:
            said.append(f"{e.value:.2g} % of the {name}, real {e.test:.2g} %")
    if (e := found.get("histogram_distance")) and e.differs and 100 * e.value >= SMALL_PERCENT:
        said.append(f"histogram off by {100 * e.value:.2g} % of the {names['element']}s (floor {100 * e.real:.2g} %)")
    if (e := found.get("fine_detail_db")) and e.differs and abs(e.value) >= SMALL_DB:
        what = "noise" if e.value > 0 else "blur"
        said.append(f"fine detail {e.value:+.1f} dB ({what}; floor {e.real:+.1f} dB)")
    for key, name in (("channel_mean_percent", "colors"), ("channel_covariance_percent", "covariance of the channels")):
        if (e := found.get(key)) and e.differs and abs(e.value) >= SMALL_PERCENT:
            said.append(f"{name} off by {e.value:.2g} % (floor {e.real:.2g} %)")
    return "; ".join(said) or f"none in the {names['element']}s beyond that of as many real data"


def pixel_pictures(
    moments: Mapping[str, Means], reference: ReferenceData, names: Mapping[str, str]
) -> dict[str, Picture]:
    """The mean and the spread of each element, and the histogram and the spectrum of all."""
    ends, each = reference.value_range, names["element"]
    maps = {
        name: (
            ends.from_unit(m["elements"]),
            ends.from_unit(element_std(m)) - ends.from_unit(0 * m["elements"]),
        )
        for name, m in moments.items()
    }
    curves = {name: (m["histogram"], m["power"]) for name, m in moments.items()}
    return {
        "element_maps": Picture(
            element_maps(maps, reference.kind), f"Mean and standard deviation of each {each} over the samples"
        ),
        "elements": Picture(
            distributions(curves, (ends.low.tolist(), ends.high.tolist())),
            f"Histogram of the {each}s, and power spectrum by the norm of the frequency",
        ),
    }


HOW_TO_READ = (
    "Differences are from the test data, and the real-data baseline is the same number for as many training data: a "
    "bias is a value that is farther from 0. The contrast is the standard deviation within a sample. Values at an end "
    "of the range are within half a step of 8 bits of it, or beyond. More power of fine detail is noise, less is blur. "
    "Intervals are those of the delete-group jackknife over samples."
)

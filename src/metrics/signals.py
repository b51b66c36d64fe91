"""Sine-wave signals: parameters, residuals and spectra of the samples against those of the data."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from src.metrics.base import EvalContext, Metric, MetricValue, Picture, ReportSection
from src.plots.metrics import fitted_waves, parameter_histograms, spectrum_bands
from src.statistics.goodness_of_fit import GoodnessOfFit, distance_to_uniform
from src.statistics.power_spectrum import MIN_POWER, rms_decibels
from src.statistics.significance import Better
from src.statistics.sine_fit import SineFit, fit_sines, search_range

PERIOD = {"phase": 2 * math.pi}
CHUNK = 1000  # signals per Fourier transform
MAX_SHOWN = 10_000  # signals in the plot of the spectra
UNITS = {"frequency": "cycles per window", "amplitude": "units of the signal", "phase": "radians"}


class Signals(Metric):
    """Least-squares sine fit to every channel of every sample, compared with the distributions of the data."""

    kinds = ("signals",)

    def why_not_applicable(self, context: EvalContext) -> str | None:
        if reason := super().why_not_applicable(context):
            return reason
        if known_distributions(context) is None:
            data = type(context.data).__name__
            return f"it needs data with known distributions of the parameters, such as data=sine, got {data}"
        return None

    def __call__(self, context: EvalContext) -> ReportSection:
        distributions = known_distributions(context)
        assert distributions is not None
        x, real = context.x.flatten(0, 1).cpu(), real_waves(context).flatten(0, 1)
        low, high = search_range(*distributions["frequency"])
        fit, real_fit = fit_sines(x, low, high), fit_sines(real, low, high)
        distances = {name: to_distribution(fit, name, distributions) for name in UNITS}
        real_distances = {name: to_distribution(real_fit, name, distributions) for name in UNITS}
        section = ReportSection("Sine waves", notes=[*HOW_TO_READ], interpretation=interpret_fits(distances, len(x)))
        if len(real) < len(x):
            section.notes.append(
                f"The real-data baseline is computed from {len(real):,} signals, fewer than the {len(x):,} samples: "
                "its distances, which decrease as the square root of that number, are accordingly larger."
            )
        for name in UNITS:
            section.values |= distance_values(name, distances[name], real_distances[name])
        section.values |= residual_values(fit, real_fit, distributions["noise"])
        reference = mean_spectrum(batch["x"].flatten(0, 1) for batch in context.train.batches())
        differences = [rms_decibels(mean_spectrum(v.split(CHUNK)), reference) for v in (x, real)]
        title = "spectrum, rms difference of the means (dB)"
        section.values["spectrum_db"] = MetricValue(title, differences[0], real_baseline=differences[1], better="lower")
        parameters, real_parameters = ({name: getattr(f, name) for name in UNITS} for f in (fit, real_fit))
        histograms = parameter_histograms(
            parameters, real_parameters, {name: distributions[name] for name in UNITS}, UNITS, PERIOD
        )
        shown = {"data": spectrum(real[:MAX_SHOWN]), "samples": spectrum(x[:MAX_SHOWN])}
        bands = spectrum_bands(frequencies(x.shape[1]), shown, lowest=MIN_POWER * float(reference.max()))
        section.pictures = {
            "fits": Picture(fitted_waves(*examples(x, fit)), "Samples and their fitted sine waves"),
            "parameters": Picture(histograms, "Parameters of the fitted waves, and their distributions in the data"),
            "spectrum": Picture(bands, f"Power spectra of {min(len(x), MAX_SHOWN):,} signals: means, and 90 % ranges"),
        }
        section.tables = {
            "distributions": {name: list(distributions[name]) for name in UNITS} | {"noise": distributions["noise"]}
        }
        return section


HOW_TO_READ = [
    "The Wasserstein distance is the mean distance by which the numbers have to be moved to have their distribution, "
    "in their own units. The KS distance is the largest difference between the two distribution functions (for the "
    "phase, which has no origin, Kuiper's statistic), and p its p-value.",
    "The residual is the part of a sample that is not a sine wave. With noise of standard deviation nu in the data, it "
    "should be about nu.",
]


def known_distributions(context: EvalContext) -> dict[str, Any] | None:
    """The range of each parameter and the standard deviation of the noise; None if the data have no `distributions`."""
    return getattr(context.data, "distributions", None)


def real_waves(context: EvalContext) -> Tensor:
    """The same number of real signals as samples, from the test data, then from the training data."""
    n = len(context.x)
    real = context.test.some(n, "signals", context.seed)["x"]
    if len(real) < n:
        real = torch.cat([real, context.train.some(n - len(real), "signals", context.seed)["x"]])
    return real


def to_distribution(fit: SineFit, name: str, distributions: dict[str, Any]) -> GoodnessOfFit:
    """The distance of one fitted parameter from its distribution in the data."""
    low, high = distributions[name]
    return distance_to_uniform(getattr(fit, name), low, high, PERIOD.get(name))


def distance_values(name: str, fit: GoodnessOfFit, real: GoodnessOfFit) -> dict[str, MetricValue]:
    """The distances of one parameter; without tests if it is constant in the data."""
    unit = UNITS[name]
    values = {
        f"{name}_wasserstein": MetricValue(
            f"{name}, Wasserstein distance ({unit})", fit.wasserstein, real_baseline=real.wasserstein, better="lower"
        )
    }
    if fit.ks is not None and fit.p is not None:
        values[f"{name}_ks"] = MetricValue(f"{name}, KS distance", fit.ks, real_baseline=real.ks, better="lower")
        values[f"{name}_p"] = MetricValue(f"{name}, p-value", fit.p, real_baseline=real.p, better="higher")
    return values


def residual_values(fit: SineFit, real: SineFit, noise: float) -> dict[str, MetricValue]:
    """The residuals of the fits."""
    better: Better | None = None if noise else "lower"  # a residual below the noise of the data is not better

    def value(name: str, fits: list[Tensor]) -> MetricValue:
        mean, real_mean = (x.mean().item() for x in fits)
        return MetricValue(name, mean, real_baseline=real_mean, better=better)

    return {
        "residual": value("residual of the wave, rms (units of the signal)", [fit.residual, real.residual]),
        "unexplained_power": value("residual, fraction of the power", [fit.unexplained, real.unexplained]),
    }


def interpret_fits(distances: dict[str, GoodnessOfFit], n: int) -> str:
    """Name the parameters whose distribution in the samples differs significantly from that of the data."""
    tested = {name: d for name, d in distances.items() if d.ks is not None and d.critical is not None}
    missed = [f"{name} (KS {d.ks:.3g}, critical {d.critical:.3g})" for name, d in tested.items() if d.ks > d.critical]  # type: ignore[operator]
    if not tested:
        return "The parameters of the data are constants: see the Wasserstein distances."
    if not missed:
        return f"{', '.join(tested)}: no significant difference from the data (n = {n:,}, 95 %)."
    return f"Significantly different from the data (n = {n:,}, 95 %): {', '.join(missed)}."


def examples(x: Tensor, fit: SineFit, each: int = 3) -> tuple[Tensor, Tensor, list[str]]:
    """The signals (N, L) with the best, median and worst fits, their waves and titles."""
    order, n = fit.unexplained.argsort(), len(x)
    each = min(each, n)
    starts = {"best": 0, "median": (n - each) // 2, "worst": n - each}
    rows = torch.cat([order[first : first + each] for first in starts.values()])
    titles = [
        f"{name}: {fit.unexplained[i]:.2g} unexplained"
        for name, first in starts.items()
        for i in order[first : first + each]
    ]
    return x[rows], SineFit(*(values[rows] for values in fit)).waves(x.shape[1]), titles


# ---- spectra ----


def frequencies(length: int) -> Tensor:
    """The frequencies of the bins of a spectrum, in cycles per window, where the window includes both end points."""
    return torch.arange(length // 2 + 1) * (length - 1) / length


def spectrum(x: Tensor) -> Tensor:
    """The power spectrum (N, L // 2 + 1) of signals (N, L), which sums to about their mean square.

    Hann's window suppresses the leakage from the end points of a wave into high frequencies.
    """
    window = torch.hann_window(x.shape[1], dtype=torch.float64)
    power = torch.fft.rfft(x.double() * window).abs().square() / (x.shape[1] * window.square().sum())
    positive_and_negative = torch.full((power.shape[1],), 2.0, dtype=power.dtype)
    positive_and_negative[0] = 1
    if x.shape[1] % 2 == 0:
        positive_and_negative[-1] = 1
    return power * positive_and_negative


def mean_spectrum(parts: Iterable[Tensor]) -> Tensor:
    """The mean power spectrum (K,) of batches of signals (n, L)."""
    sums = [(spectrum(x).sum(0), len(x)) for x in parts]
    return torch.stack([power for power, _ in sums]).sum(0) / sum(n for _, n in sums)

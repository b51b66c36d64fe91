"""Whether samples are waves, and of the law that the data are drawn from."""

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from src.metrics.base import Measure, Picture, Section, Subject, Value
from src.plots.metrics import fitted_waves, law_histograms, spectrum_bands
from src.statistics.laws import Distance, distance_to_uniform
from src.statistics.sine_fit import SineFit, fit_sines, search_range

PERIOD = {"phase": 2 * math.pi}
Better = Literal["lower"] | None
PART = 1000  # signals whose spectra are taken at a time
MOST = 10_000  # signals whose spectra are shown
FAINT = 1e-6  # power below this share of the highest is as good as none
UNITS = {"frequency": "cycles per window", "amplitude": "units of the signal", "phase": "radians"}


class Signals(Measure):
    """Least-squares sine fit to every channel of every sample, compared with the distributions of the data."""

    kinds = ("signals",)

    def refusal(self, subject: Subject) -> str | None:
        if reason := super().refusal(subject):
            return reason
        if known_laws(subject) is None:
            return f"it needs data whose laws are known, as those of data=sine, not {type(subject.data).__name__}"
        return None

    def __call__(self, subject: Subject) -> Section:
        laws = known_laws(subject)
        assert laws is not None
        x, real = subject.x.flatten(0, 1).cpu(), real_waves(subject).flatten(0, 1)
        low, high = search_range(*laws["frequency"])
        found, floor = fit_sines(x, low, high), fit_sines(real, low, high)
        distances = {name: to_law(found, name, laws) for name in UNITS}
        floors = {name: to_law(floor, name, laws) for name in UNITS}
        section = Section("Sine waves", notes=[*HOW_TO_READ], verdict=verdict(distances, len(x)))
        if len(real) < len(x):
            few = f"There are {len(real):,} real signals for {len(x):,} samples"
            section.notes.append(
                f"{few}: their distances, which fall with the root of the number, are that much larger."
            )
        for name in UNITS:
            section.values |= values_of(name, distances[name], floors[name])
        section.values |= residual_values(found, floor, laws["noise"])
        usual = mean_spectrum(batch["x"].flatten(0, 1) for batch in subject.train.batches())
        differences = [decibels(mean_spectrum(v.split(PART)), usual) for v in (x, real)]
        title = "spectrum, rms difference of the means (dB)"
        section.values["spectrum_db"] = Value(title, differences[0], floor=differences[1], better="lower")
        parameters, real_ones = ({name: getattr(fit, name) for name in UNITS} for fit in (found, floor))
        histograms = law_histograms(parameters, real_ones, {name: laws[name] for name in UNITS}, UNITS, PERIOD)
        shown = {"data": spectrum(real[:MOST]), "samples": spectrum(x[:MOST])}
        bands = spectrum_bands(frequencies(x.shape[1]), shown, lowest=FAINT * float(usual.max()))
        section.pictures = {
            "fits": Picture(fitted_waves(*chosen(x, found)), "Samples and the sine waves that fit them best"),
            "parameters": Picture(
                histograms, "Parameters of the fitted waves, and the laws that the data are drawn from"
            ),
            "spectrum": Picture(bands, f"Power spectra of {min(len(x), MOST):,} signals: means, and the range of 90 %"),
        }
        section.tables = {"laws": {name: list(laws[name]) for name in UNITS} | {"noise": laws["noise"]}}
        return section


HOW_TO_READ = [
    "The Wasserstein distance is how far the numbers would have to move, on average, to follow their law, in their own "
    "units. The KS distance is the largest difference between the two distribution functions (for the phase, which has "
    "no beginning, Kuiper's), and p the share of true sets of as many numbers that are at least as far.",
    "What is left over is the part of a sample that is no sine wave. Of noise with the standard deviation nu in the "
    "data about nu has to be left.",
]


def known_laws(subject: Subject) -> dict[str, Any] | None:
    """The range of each parameter, and the standard deviation of the noise, of data that say so."""
    return getattr(subject.data, "laws", None)


def real_waves(subject: Subject) -> Tensor:
    """As many real signals as there are samples: of the test data, and of the training data where these are too few."""
    n = len(subject.x)
    real = subject.test.some(n, "signals", subject.seed)["x"]
    if len(real) < n:
        real = torch.cat([real, subject.train.some(n - len(real), "signals", subject.seed)["x"]])
    return real


def to_law(fit: SineFit, name: str, laws: dict[str, Any]) -> Distance:
    """Of one parameter."""
    low, high = laws[name]
    return distance_to_uniform(getattr(fit, name), low, high, PERIOD.get(name))


def values_of(name: str, found: Distance, floor: Distance) -> dict[str, Value]:
    """The distances of one parameter; without tests where its law is a point."""
    unit = UNITS[name]
    values = {
        f"{name}_wasserstein": Value(
            f"{name}, Wasserstein distance ({unit})", found.wasserstein, floor=floor.wasserstein, better="lower"
        )
    }
    if found.ks is not None and found.p is not None:
        values[f"{name}_ks"] = Value(f"{name}, KS distance", found.ks, floor=floor.ks, better="lower")
        values[f"{name}_p"] = Value(f"{name}, p-value of it", found.p, floor=floor.p, better="higher")
    return values


def residual_values(found: SineFit, floor: SineFit, noise: float) -> dict[str, Value]:
    """What the waves leave over."""
    better: Better = None if noise else "lower"  # less than the noise of the data is not better

    def value(name: str, fits: list[Tensor]) -> Value:
        number, real = (x.mean().item() for x in fits)
        return Value(name, number, floor=real, better=better)

    return {
        "residual": value("left over by the wave, rms (units of the signal)", [found.residual, floor.residual]),
        "outside": value("left over, share of the power", [found.outside, floor.outside]),
    }


def verdict(distances: dict[str, Distance], n: int) -> str:
    """Which laws the samples miss by more than chance."""
    tested = {name: d for name, d in distances.items() if d.ks is not None and d.critical is not None}
    missed = [f"{name} (KS {d.ks:.3g}, chance {d.critical:.3g})" for name, d in tested.items() if d.ks > d.critical]  # type: ignore[operator]
    if not tested:
        return "The laws of the data are points: how far the samples are from them is in the Wasserstein distances."
    if not missed:
        return f"{', '.join(tested)}: all as near to their laws as 95 % of true sets of {n:,} waves are."
    return f"Farther from their law than 95 % of true sets of {n:,} waves are: {', '.join(missed)}."


def chosen(x: Tensor, fit: SineFit, each: int = 3) -> tuple[Tensor, Tensor, list[str]]:
    """Signals (N, L), their waves and titles: those that are fitted best, in the middle, and worst."""
    order, n = fit.outside.argsort(), len(x)
    each = min(each, n)
    starts = {"best": 0, "median": (n - each) // 2, "worst": n - each}
    rows = torch.cat([order[first : first + each] for first in starts.values()])
    titles = [
        f"{name}: {fit.outside[i]:.2g} of the power left"
        for name, first in starts.items()
        for i in order[first : first + each]
    ]
    return x[rows], SineFit(*(values[rows] for values in fit)).waves(x.shape[1]), titles


# ---- spectra ----


def frequencies(length: int) -> Tensor:
    """Of the bins of a spectrum, in cycles per window, which both ends of the signal are part of."""
    return torch.arange(length // 2 + 1) * (length - 1) / length


def spectrum(x: Tensor) -> Tensor:
    """The power (N, L // 2 + 1) at each frequency of signals (N, L), whose sum is about their mean square.

    Under Hann's window, without which the ends of a wave, which do not meet, would hide what else is at high
    frequencies.
    """
    window = torch.hann_window(x.shape[1], dtype=torch.float64)
    power = torch.fft.rfft(x.double() * window).abs().square() / (x.shape[1] * window.square().sum())
    positive_and_negative = torch.full((power.shape[1],), 2.0, dtype=power.dtype)
    positive_and_negative[0] = 1
    if x.shape[1] % 2 == 0:
        positive_and_negative[-1] = 1
    return power * positive_and_negative


def mean_spectrum(parts: Iterable[Tensor]) -> Tensor:
    """The mean power (K,) at each frequency of signals (n, L) that come in parts."""
    sums = [(spectrum(x).sum(0), len(x)) for x in parts]
    return torch.stack([power for power, _ in sums]).sum(0) / sum(n for _, n in sums)


def decibels(power: Tensor, reference: Tensor) -> float:
    """Root mean square over the frequencies of the ratio of powers (K,), in dB; power below FAINT is taken for that."""
    least = FAINT * reference.max()
    return (10 * (power.clamp(min=least) / reference.clamp(min=least)).log10()).square().mean().sqrt().item()

"""Plots of the metrics."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from src.plots.pictures import (
    BLUE,
    GRAY,
    MAX_SHOWN,
    ORANGE,
    draw_points,
    frame_of,
    label_colors,
    new_figure,
    to_picture,
)

BINS = 36  # of a histogram; the limits of the distribution are then bin edges
STYLES: list[dict[str, Any]] = [
    {"color": ORANGE, "marker": "o"},
    {"color": BLUE, "marker": "o"},
    {"color": ORANGE, "linestyle": "--"},
    {"color": BLUE, "linestyle": "--"},
]


def fitted_waves(x: Tensor, waves: Tensor, titles: list[str]) -> Image.Image:
    """Draw signals (N, L) in rows of three panels, each with its fitted wave (N, L)."""
    rows = ceil(len(x) / 3)
    figure, axes = new_figure(9, 1.9 * rows + 0.4, rows, 3, sharex=True, sharey=True)
    position = torch.linspace(0, 1, x.shape[1])
    for axis, signal, wave, title in zip(axes.flat, x, waves, titles, strict=False):
        axis.plot(position, signal.cpu(), color=BLUE, linewidth=1.8, label="sample")
        axis.plot(position, wave.cpu(), color=ORANGE, linewidth=1.1, linestyle="--", label="fitted wave")
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(x) :]:
        axis.axis("off")
    for axis in axes[-1]:
        axis.set_xlabel("position in the window", fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel("signal", fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize=9)
    return to_picture(figure)


def parameter_histograms(
    found: Mapping[str, Tensor],
    real: Mapping[str, Tensor],
    distributions: Mapping[str, tuple[float, float]],
    units: Mapping[str, str],
    periods: Mapping[str, float],
) -> Image.Image:
    """Draw histograms of parameters (N,) of samples and data, with their uniform distributions, one panel for each.

    Args:
        found, real: parameters of the samples and of the data, by name.
        distributions: limits of the distributions.
        units: units for the axis labels.
        periods: periods of circular parameters.
    """
    figure, axes = new_figure(3.6 * len(found), 3.2, 1, len(found))
    for axis, (name, x) in zip(axes[0], found.items(), strict=True):
        low, high = distributions[name]
        first, last = histogram_range(x, low, high, periods.get(name))
        bins = torch.linspace(first, last, BINS + 1, dtype=torch.float64).numpy()
        for values, style in (
            (real[name], {"color": GRAY, "histtype": "stepfilled", "alpha": 0.6, "label": "data"}),
            (x, {"color": ORANGE, "histtype": "step", "linewidth": 1.6, "label": "samples"}),
        ):
            # Outliers are counted in the outermost bins; circular parameters have none.
            inside = (values - first) % periods[name] + first if name in periods else values.clamp(first, last)
            axis.hist(inside.cpu().numpy(), bins, density=True, **style)
        if high > low:
            height = 1 / (high - low)
            axis.plot([low, low, high, high], [0, height, height, 0], color=BLUE, linewidth=1.4, label="distribution")
        else:
            axis.axvline(low, color=BLUE, linewidth=1.4, label="distribution")
        axis.set_xlabel(f"{name} ({units[name]})", fontsize=9)
        axis.tick_params(labelsize=8)
    axes[0, 0].set_ylabel("density", fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=9)
    return to_picture(figure)


def histogram_range(x: Tensor, low: float, high: float, period: float | None) -> tuple[float, float]:
    """The range of a histogram: one period, or the distribution with a margin, or the numbers if it is a point."""
    if period is not None:
        return (low + high - period) / 2, (low + high + period) / 2
    if high > low:
        return low - 0.25 * (high - low), high + 0.25 * (high - low)
    reach = max(1.2 * float((x - low).abs().quantile(0.98)), 1e-3)
    return low - reach, high + reach


def spectrum_bands(frequency: Tensor, spectra: Mapping[str, Tensor], lowest: float) -> Image.Image:
    """Draw the means of power spectra (N, K) against frequencies (K,), with their 5 to 95 % bands.

    Args:
        frequency: frequencies.
        spectra: spectra by name.
        lowest: lower limit of the power axis.
    """
    figure, axes = new_figure(7.5, 4.2)
    axis = axes[0, 0]
    for (name, power), color in zip(spectra.items(), (BLUE, ORANGE), strict=True):
        power = power.cpu().clamp(min=lowest / 10)
        low, high = power.quantile(torch.tensor([0.05, 0.95], dtype=power.dtype), dim=0)
        axis.fill_between(frequency, low, high, color=color, alpha=0.25, linewidth=0, label=f"{name}, 5 to 95 %")
        axis.plot(frequency, power.mean(0), color=color, linewidth=1.6, label=f"{name}, mean")
    axis.set(yscale="log", xlabel="frequency (cycles per window)", ylabel="power (squared units of the signal)")
    axis.set_ylim(bottom=lowest)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9)
    return to_picture(figure)


def axis_spectra(
    curves: Mapping[str, Sequence[Tensor]], names: Sequence[str], size: Sequence[int], lowest: float
) -> Image.Image:
    """Draw power spectra along each axis, one panel for each.

    Args:
        curves: by name, a spectrum (K,) for each axis.
        names, size: names and lengths of the axes.
        lowest: power that is shown at least, relative to the largest.
    """
    figure, axes = new_figure(3.2 * len(names), 3.4, 1, len(names), sharey=True)
    peak = max(float(curve.max()) for each in curves.values() for curve in each)
    for i, (axis, name) in enumerate(zip(axes.flat, names, strict=True)):
        for (title, each), style in zip(curves.items(), STYLES[1::-1], strict=True):
            frequency = torch.arange(len(each[i])) / size[i]
            axis.plot(frequency, each[i].clamp(min=lowest * peak), label=title, markersize=3, linewidth=1.3, **style)
        axis.set(yscale="log", title=f"along {name}", xlabel="frequency (cycles per element)")
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("power (squared units of the data)")
    axes[0, -1].legend(fontsize=9)
    return to_picture(figure)


def labeled_clouds(sets: Mapping[str, tuple[Tensor, Tensor | None]]) -> Image.Image:
    """Draw sets of points (N, C), with labels (N,) or None, side by side on common axes, with as many of each."""
    n = min(MAX_SHOWN[2], *(len(x) for x, _ in sets.values()))
    first = next(iter(sets.values()))[0]
    figure, axes = new_figure(4.6 * len(sets), 4.8, 1, len(sets))
    for axis, (title, (x, label)) in zip(axes[0], sets.items(), strict=True):
        draw_points(axis, x[:n], BLUE if label is None else label_colors(label[:n]), frame_of(first))
        axis.set_title(f"{title}, {n:,}", fontsize=11)
    return to_picture(figure)


def error_curves(log_snr: Tensor, curves: Mapping[str, Tensor]) -> Image.Image:
    """Draw mean errors against the noise level, and the relative excess of the second curve over the first.

    Args:
        log_snr: (L,).
        curves: errors (L, n) by name: of the network on training and on test data, then of the ideal denoiser.
    """
    figure, axes = new_figure(10, 4.2, 1, 2)
    for (name, error), style in zip(curves.items(), STYLES, strict=True):
        axes[0, 0].plot(log_snr, error.mean(1), label=name, linewidth=1.6, markersize=4, **style)
    train, test = list(curves.values())[:2]
    # The ideal error on training data approaches zero, which would flatten the others.
    shown = torch.stack([train, test]).mean(2)
    axes[0, 0].set_ylim(max(float(shown.min()) / 10, 1e-12), 3 * max(float(shown.max()), 1e-12))
    axes[0, 0].set(yscale="log", ylabel="mean squared error (squared units of the data)")
    axes[0, 0].legend(fontsize=9)
    usual = train.mean(1)
    gap = 100 * (test.mean(1) / usual - 1)
    margin = 196 / usual * ((test.var(1) + train.var(1)) / train.shape[1]).sqrt()
    axes[0, 1].fill_between(log_snr, gap - margin, gap + margin, color=GRAY, alpha=0.4, linewidth=0, label="95 %")
    axes[0, 1].plot(log_snr, gap, color=BLUE, marker="o", markersize=4, linewidth=1.6)
    axes[0, 1].axhline(0, color="black", linewidth=0.8)
    axes[0, 1].set(ylabel="model: test error above training error (%)")
    for axis in axes[0]:
        axis.set_xlabel("log-SNR (much noise to little)")
        axis.grid(alpha=0.3)
    return to_picture(figure)


def error_by_times(errors: Tensor) -> Image.Image:
    """Draw the errors (T + 1, T + 1) of steps between the times 1 - i / T as a picture with t and s as axes."""
    figure, axes = new_figure(5.2, 4.4, 1, 1)
    steps, axis = len(errors) - 1, axes[0, 0]
    shown = errors[:-1, 1:].masked_fill(~torch.ones(steps, steps).triu().bool(), torch.nan)
    image = axis.imshow(shown, cmap="viridis", vmin=0)
    names = [f"{1 - i / steps:.3g}" for i in range(steps + 1)]
    axis.set(xlabel="s", ylabel="t")
    axis.set_xticks(range(steps), names[1:])
    axis.set_yticks(range(steps), names[:-1])
    figure.colorbar(image, ax=axis, label="root mean square error")
    return to_picture(figure)


def class_bars(samples: Tensor, data: Tensor, names: Sequence[str]) -> Image.Image:
    """Draw the fractions of the classes (K,) among samples and data, side by side."""
    k = len(names)
    figure, axes = new_figure(min(14.0, 3.5 + 0.55 * k), 3.2)
    axis, places = axes[0, 0], range(k)
    axis.bar([i - 0.2 for i in places], data, 0.4, color=GRAY, label="data")
    axis.bar([i + 0.2 for i in places], samples, 0.4, color=BLUE, label="samples")
    long = max(map(len, names)) > 3 and k > 6
    axis.set_xticks(places, names, rotation=45 if long else 0, ha="right" if long else "center")
    axis.set(xlabel="class", ylabel="fraction")
    axis.legend(ncols=2, fontsize=9)
    axis.grid(alpha=0.3, axis="y")
    axis.set_axisbelow(True)
    axis.set_ylim(0, 1.25 * float(max(samples.max(), data.max())))
    return to_picture(figure)


def loss_by_noise(first: Mapping[str, float], last: Mapping[str, float]) -> Image.Image:
    """Draw validation losses in bins of the log-SNR, as logged at two steps."""
    figure, axes = new_figure(8, 3.6)
    axis = axes[0, 0]
    for row, color in ((first, GRAY), (last, ORANGE)) if first is not last else ((last, ORANGE),):
        bins = {k.split("_", 3)[-1]: v for k, v in row.items() if k.startswith("val_ema/log_snr/")}
        axis.plot(range(len(bins)), list(bins.values()), "o-", color=color, label=f"step {row['step']:,}")
        axis.set_xticks(range(len(bins)), [name.replace("..", " to ").replace("inf", "∞") for name in bins], fontsize=8)
    axis.set_yscale("log")
    axis.set(xlabel="log-SNR (noise at the left, data at the right)", ylabel="validation loss")
    axis.legend(fontsize=9)
    axis.grid(alpha=0.3, which="both")
    return to_picture(figure)

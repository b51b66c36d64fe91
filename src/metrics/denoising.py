"""Denoising error by noise level, and whether the network generalizes or memorizes."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from hydra.utils import instantiate
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from src.diffusion.conditions import Cond, class_of, map_cond, rows_of
from src.diffusion.ideal import ideal_denoiser
from src.metrics.base import EvalContext, Metric, MetricValue, Picture, ReportSection
from src.metrics.generalization import GeneralizationGap
from src.plots.denoising_strip import denoising_strip
from src.plots.metrics import error_curves
from src.samplers.self_conditioning import SelfConditioned
from src.statistics.image_quality import image_quality
from src.utils.console import progress_bar
from src.utils.ranges import PositiveInt
from src.utils.seeding import generator

LOG_SNR = (8, 6, 4, 3, 2, 1, 0, -1, -2, -4, -6, -8)
REPORTED = (4.0, 0.0, -4.0)  # log-SNR values whose image quality is in the report
MAX_STRIP, STRIP_COLUMNS = 8, 5  # samples and noise levels in the strip
MAX_ELEMENTS = 2**26  # elements of x_t that the ideal denoiser takes at a time


class NoiseLevels(NamedTuple):
    """Noise levels, from little to much noise, each (L,) float64."""

    log_snr: Tensor
    t: Tensor
    alpha: Tensor
    sigma: Tensor


class DenoisingResult(NamedTuple):
    """Data denoised at L noise levels, in the units of the model, on the CPU.

    Attributes:
        x_0: (n, C, *S), the clean data.
        x_t, model, ideal: (L, n, C, *S), the noisy data and the estimates of the network and of the ideal denoiser.
    """

    x_0: Tensor
    x_t: Tensor
    model: Tensor
    ideal: Tensor


class Denoising(Metric):
    """Denoising error at each noise level on training and test data, of the network and of the ideal denoiser.

    The ideal denoiser of the training data is the posterior mean if the training data are all there is: it memorizes.

    Args:
        n: number of training data, and of test data.
        log_snr: the noise levels; levels outside the range of training are skipped.
    """

    needs_samples = False

    def __init__(self, n: PositiveInt = 256, log_snr: Iterable[float] = LOG_SNR):
        self.n, self.log_snr = n, sorted(map(float, log_snr), reverse=True)

    def __call__(self, context: EvalContext) -> ReportSection:
        levels = trained_levels(context, self.log_snr)
        n = min(self.n, len(context.train), len(context.test))
        result = denoise_levels(context, n, levels)
        model, ideal = (squared_errors(context, x, result.x_0) for x in (result.model, result.ideal))
        curves = {"model, training data": model[:, :n], "model, test data": model[:, n:]}
        curves |= {"ideal, training data": ideal[:, :n], "ideal, test data": ideal[:, n:]}
        gap = GeneralizationGap.of(*curves.values())
        units, images = context.data.to_units, context.kind == "images"
        quality = [image_quality(units(x), units(result.x_0[n:]), images=images) for x in result.model[:, n:]]
        section = ReportSection("Denoising", notes=[*HOW_TO_READ], interpretation=gap.interpretation())
        null = context.pipeline.denoiser.condition.null(1)
        if null is not None and class_of(null) is None:
            section.notes.append("The ideal denoiser is unconditional; the network is given the condition of the data.")
        section.values = gap.values() | quality_values(levels.log_snr.tolist(), quality)
        section.tables = {"log_snr": levels.log_snr.tolist()}
        section.tables |= {f"mse of {name}": curve.mean(1).tolist() for name, curve in curves.items()}
        section.tables |= {key: [q[key] for q in quality] for key in quality[0] if key != "mse"}
        if len(levels.t) > 1:
            caption = f"Errors on {n:,} training and {n:,} test data, and the relative excess of the latter (95 % band)"
            section.pictures["errors"] = Picture(error_curves(levels.log_snr, curves), caption)
        shown = n if context.kind == "points" else min(n, 4 if context.kind == "signals" else MAX_STRIP)
        caption = f"Test data, noisy, and denoised in one evaluation; {shown:,} of {n:,} shown"
        section.pictures["strip"] = Picture(strip(context, result, levels, n), caption)
        return section


HOW_TO_READ = [
    "The ideal denoiser of the training data is their mean, weighted by the likelihood of each given the noisy sample. "
    "On training data no error is lower, and a network that approaches it at all levels has memorized them. On test "
    "data a network that has learned the distribution of the data is below it.",
    "Equal errors on training and test data do not make a network good: compare its errors with those of other runs. "
    "Test data that are harder in themselves, such as digits by other writers, also cause a gap.",
    "Squared errors are means over the elements, in units of the data, and over the noise levels unless one is named.",
]


# ---- the denoised data ----


def condition_of(context: EvalContext, batch: dict[str, Tensor], x_0: Tensor) -> Cond | None:
    """The condition (n, ...) of a batch of data, of which x_0 are in the units of the model; on the CPU."""
    device = context.pipeline.device
    cond = context.pipeline.denoiser.condition({k: v.to(device) for k, v in (batch | {"x": x_0}).items()})
    return map_cond(Tensor.cpu, cond)


def trained_range(context: EvalContext) -> tuple[float, float]:
    """The lowest and the highest log-SNR of the validation times of the run."""
    schedule, times = context.pipeline.denoiser.schedule, instantiate(context.run.config().time_sampler)
    t = times.for_validation()(100_000, generator("levels"), schedule)
    return float(schedule.log_snr(t.max())), float(schedule.log_snr(t.min()))


def trained_levels(context: EvalContext, log_snr: list[float]) -> NoiseLevels:
    """The levels within the range of training; the middle of that range if there are none."""
    low, high = trained_range(context)
    known = [v for v in log_snr if low <= v <= high] or [(low + high) / 2]
    schedule, values = context.pipeline.denoiser.schedule, torch.tensor(known, dtype=torch.float64)
    t = schedule.inverse_log_snr(values)
    return NoiseLevels(values, t, *schedule.alpha_sigma(t))


def denoise_levels(context: EvalContext, n: int, levels: NoiseLevels) -> DenoisingResult:
    """Denoise n training data, then n test data, each with the same noise at all levels."""
    parts = [real.some(n, "denoising", context.seed) for real in (context.train, context.test)]
    x_0 = context.to_model(torch.cat([part["x"] for part in parts]))
    cond = condition_of(context, {key: torch.cat([part[key] for part in parts]) for key in parts[0]}, x_0)
    noise = torch.randn(x_0.shape, generator=generator("denoising", context.seed))
    shape = (-1, *[1] * x_0.ndim)
    x_t = levels.alpha.view(shape).to(x_0) * x_0 + levels.sigma.view(shape).to(x_0) * noise
    return DenoisingResult(
        x_0, x_t, model_estimates(context, x_t, levels, cond), ideal_estimates(context, x_t, levels, cond)
    )


def model_estimates(context: EvalContext, x_t: Tensor, levels: NoiseLevels, cond: Cond | None) -> Tensor:
    """Estimates of x_0 by the network from x_t (L, n, C, *S), in the precision of sampling."""
    pipeline, size = context.pipeline, context.pipeline.batch_size
    device, dtype = pipeline.device, pipeline.dtype
    prediction = torch.empty_like(x_t)
    bar = progress_bar(len(levels.t) * x_t.shape[1], "denoising", leave=False, delay=2, unit_scale=True)
    with bar, pipeline.count_nfe(), torch.autocast(device.type, dtype, enabled=dtype is not None):
        for i, t in enumerate(levels.t):
            for rows in torch.arange(x_t.shape[1]).split(size):
                denoise = SelfConditioned(pipeline.denoiser)
                part = map_cond(lambda value: value.to(device), rows_of(cond, rows))
                prediction[i, rows] = denoise(x_t[i, rows].to(device), t, part).x_0.to(prediction)
                bar.update(len(rows))
    return prediction


def ideal_estimates(context: EvalContext, x_t: Tensor, levels: NoiseLevels, cond: Cond | None) -> Tensor:
    """Estimates of the ideal denoiser of the training data; if the condition is a class, of those of the same class."""
    count, n = x_t.shape[:2]
    flat, device = x_t.flatten(0, 1), context.pipeline.device
    alpha, sigma = (v.repeat_interleave(n) for v in (levels.alpha, levels.sigma))
    label = class_of(cond)
    repeated = None if label is None else label.repeat(count)
    prediction = torch.empty_like(flat)
    for rows in torch.arange(len(flat)).split(max(1, MAX_ELEMENTS // flat[0].numel())):
        part = None if repeated is None else repeated[rows]
        x_0 = ideal_denoiser(flat[rows].to(device), alpha[rows], sigma[rows], training_data(context), part)
        prediction[rows] = x_0.to(prediction)
    return prediction.view_as(x_t)


def training_data(context: EvalContext) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Iterate over (x_0, condition) of all training data, with a progress bar."""
    with progress_bar(len(context.train), "ideal denoiser", leave=False, delay=2, unit_scale=True) as bar:
        for batch in context.train.batches():
            x_0 = context.to_model(batch["x"])
            yield x_0, class_of(condition_of(context, batch, x_0))
            bar.update(len(batch["x"]))


def squared_errors(context: EvalContext, prediction: Tensor, x_0: Tensor) -> Float[Tensor, "levels n"]:
    """The mean squared error of each sample, in the units of the data, float64."""
    to_units = context.data.to_units
    return (to_units(prediction).double() - to_units(x_0).double()).square().flatten(2).mean(2)


def strip(context: EvalContext, result: DenoisingResult, levels: NoiseLevels, first: int) -> Image.Image:
    """Draw samples from number `first` on at some of the levels: original, noisy and denoised."""
    chosen = torch.linspace(0, len(levels.t) - 1, min(STRIP_COLUMNS, len(levels.t))).round().long().tolist()
    rows = slice(first, None if context.kind == "points" else first + MAX_STRIP)
    units, power = context.data.to_units, (levels.alpha**2 + levels.sigma**2).sqrt().tolist()
    return denoising_strip(
        units(result.x_0[rows]),
        [units(result.x_t[i, rows] / power[i]) for i in chosen],  # scaled to the range of the data at all levels
        [units(result.model[i, rows]) for i in chosen],
        [f"log-SNR {levels.log_snr[i]:.3g}" for i in chosen],
        context.kind,
    )


def quality_values(log_snr: list[float], quality: list[dict[str, float]]) -> dict[str, MetricValue]:
    """Image quality at the reported noise levels, or at all of them if none of those is present."""
    reported = [v for v in REPORTED if v in log_snr] or log_snr
    titles = {"psnr": "PSNR (dB)", "ssim": "SSIM"} if "psnr" in quality[0] else {"mse": "squared error"}
    titles = {key: title for key, title in titles.items() if key in quality[0]}
    return {
        f"{key}_log_snr_{v:.3g}": MetricValue(
            f"{title} of test data at log-SNR {v:.3g}",
            quality[log_snr.index(v)][key],
            better="lower" if key == "mse" else "higher",
        )
        for key, title in titles.items()
        for v in reported
    }

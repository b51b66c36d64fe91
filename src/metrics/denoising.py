"""How well the network denoises at every noise level, and whether it has learned the data or remembers them."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from hydra.utils import instantiate
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from src.diffusion.ideal import ideal_denoiser
from src.metrics.base import Measure, Picture, Section, Subject, Value
from src.metrics.generalization import Findings
from src.plots.metrics import error_curves
from src.plots.pictures import denoising_strip
from src.samplers.pipeline import SelfConditioned
from src.statistics.restoration import restoration
from src.utils import units
from src.utils.console import progress_bar
from src.utils.hardware import precision_for
from src.utils.ranges import PositiveInt
from src.utils.seeding import generator

LOG_SNR = (8, 6, 4, 3, 2, 1, 0, -1, -2, -4, -6, -8)
NAMED = (4.0, 0.0, -4.0)  # the log-SNR of which the report has numbers
SHOWN, COLUMNS = 8, 5  # samples and noise levels in the strip
NUMBERS = 2**26  # of the noisy samples that the ideal denoiser takes at a time


class Levels(NamedTuple):
    """Noise levels, from little noise to much, each (L,) float64."""

    log_snr: Tensor
    t: Tensor
    alpha: Tensor
    sigma: Tensor


class Denoised(NamedTuple):
    """What becomes of data at L noise levels, in the [-1, 1] of the model, on the CPU.

    x_0: (n, C, *S), the truth.
    x_t, model, ideal: (L, n, C, *S), noisy, and what the network and the ideal denoiser make of it.
    """

    x_0: Tensor
    x_t: Tensor
    model: Tensor
    ideal: Tensor


class Denoising(Measure):
    """Denoising error on training and test data at each noise level, beside the ideal denoiser of the training data.

    Args:
        n: training data, and as many test data.
        log_snr: the levels; those that the network was not trained at are left out.
    """

    needs_samples = False

    def __init__(self, n: PositiveInt = 256, log_snr: Iterable[float] = LOG_SNR):
        self.n, self.log_snr = n, sorted(map(float, log_snr), reverse=True)

    def __call__(self, subject: Subject) -> Section:
        levels = trained_levels(subject, self.log_snr)
        n = min(self.n, len(subject.train), len(subject.test))
        found = denoise(subject, n, levels)
        model, ideal = (errors(subject, x, found.x_0) for x in (found.model, found.ideal))
        curves = {"model, training data": model[:, :n], "model, test data": model[:, n:]}
        curves |= {"ideal, training data": ideal[:, :n], "ideal, test data": ideal[:, n:]}
        findings = Findings.of(*curves.values())
        units = subject.data.to_units
        quality = [restoration(units(x), units(found.x_0[n:]), kind=subject.kind) for x in found.model[:, n:]]
        section = Section("Denoising", notes=[*HOW_TO_READ], verdict=findings.verdict())
        section.values = findings.values() | quality_values(levels.log_snr.tolist(), quality)
        section.tables = {"log_snr": levels.log_snr.tolist()}
        section.tables |= {f"mse of {name}": curve.mean(1).tolist() for name, curve in curves.items()}
        section.tables |= {key: [q[key] for q in quality] for key in quality[0] if key != "mse"}
        if len(levels.t) > 1:
            caption = f"Errors on {n:,} training and {n:,} test data, and by how much the latter are larger (95 % band)"
            section.pictures["errors"] = Picture(error_curves(levels.log_snr, curves), caption)
        shown = n if subject.kind == "points" else min(n, 4 if subject.kind == "signals" else SHOWN)
        caption = f"Test data, noisy, and denoised in one evaluation; {shown:,} of {n:,} shown"
        section.pictures["strip"] = Picture(strip(subject, found, levels, n), caption)
        return section


HOW_TO_READ = [
    "The ideal denoiser of the training data gives the mean of all of them, weighted by how likely each is to be what "
    "the noise hides. On training data nothing has a lower error, and a network that comes near to that at all levels "
    "knows them by heart. On test data a network that has learned the law of the data is below it.",
    "A network whose two errors agree may still be far from the best there is: compare its errors with those of other "
    "runs. Test data that are harder in themselves, such as digits of other writers, also make for a gap.",
    "Squared errors are means over the elements, in units of the data, and over the noise levels where none is named.",
]


# ---- what is denoised ----


def condition_of(subject: Subject, batch: dict[str, Tensor], x_0: Tensor) -> Tensor | None:
    """The condition (n,) of a batch of data, of which x_0 are in the units of the model; on the CPU."""
    device = subject.pipeline.device
    cond = subject.pipeline.denoiser.condition({k: v.to(device) for k, v in (batch | {"x": x_0}).items()})
    return None if cond is None else cond.cpu()


def trained_range(subject: Subject) -> tuple[float, float]:
    """Lowest and highest log-SNR among the times that the run is validated at."""
    schedule, times = subject.pipeline.denoiser.schedule, instantiate(subject.run.config().time_sampler)
    t = times.for_validation()(100_000, generator("levels"), schedule)
    return float(schedule.log_snr(t.max())), float(schedule.log_snr(t.min()))


def trained_levels(subject: Subject, log_snr: list[float]) -> Levels:
    """Those of the log-SNR values that the network knows; the middle of what it knows where it is none of them."""
    low, high = trained_range(subject)
    known = [v for v in log_snr if low <= v <= high] or [(low + high) / 2]
    schedule, values = subject.pipeline.denoiser.schedule, torch.tensor(known, dtype=torch.float64)
    t = schedule.inverse_log_snr(values)
    return Levels(values, t, *schedule.alpha_sigma(t))


def to_model(subject: Subject, x: Tensor) -> Tensor:
    """From the units of the data to those of the model."""
    return units.to_model(x, subject.kind)


def denoise(subject: Subject, n: int, levels: Levels) -> Denoised:
    """n training data, and then n test data, with one noise for each at all levels."""
    parts = [real.some(n, "denoising", subject.seed) for real in (subject.train, subject.test)]
    x_0 = to_model(subject, torch.cat([part["x"] for part in parts]))
    cond = condition_of(subject, {key: torch.cat([part[key] for part in parts]) for key in parts[0]}, x_0)
    noise = torch.randn(x_0.shape, generator=generator("denoising", subject.seed))
    shape = (-1, *[1] * x_0.ndim)
    x_t = levels.alpha.view(shape).to(x_0) * x_0 + levels.sigma.view(shape).to(x_0) * noise
    return Denoised(x_0, x_t, model_estimates(subject, x_t, levels, cond), ideal_estimates(subject, x_t, levels, cond))


def model_estimates(subject: Subject, x_t: Tensor, levels: Levels, cond: Tensor | None) -> Tensor:
    """The data that the network sees in x_t (L, n, C, *S), in the precision that it samples in."""
    model, size = subject.pipeline, subject.pipeline.batch_size
    device, low = model.device, precision_for(subject.pipeline.device.type).startswith("bf16")
    said = torch.empty_like(x_t)
    bar = progress_bar(len(levels.t) * x_t.shape[1], "denoising", leave=False, delay=2, unit_scale=True)
    with bar, model.count_nfe(), torch.autocast(device.type, torch.bfloat16, enabled=low):
        for i, t in enumerate(levels.t):
            for rows in torch.arange(x_t.shape[1]).split(size):
                some = None if cond is None else cond[rows].to(device)
                said[i, rows] = SelfConditioned(model.denoiser)(x_t[i, rows].to(device), t, some).x_0.to(said)
                bar.update(len(rows))
    return said


def ideal_estimates(subject: Subject, x_t: Tensor, levels: Levels, cond: Tensor | None) -> Tensor:
    """The same for the ideal denoiser of all training data, or of those with the same condition."""
    count, n = x_t.shape[:2]
    flat, device = x_t.flatten(0, 1), subject.pipeline.device
    alpha, sigma = (v.repeat_interleave(n) for v in (levels.alpha, levels.sigma))
    repeated = None if cond is None else cond.repeat(count)
    said = torch.empty_like(flat)
    for rows in torch.arange(len(flat)).split(max(1, NUMBERS // flat[0].numel())):
        wanted = None if repeated is None else repeated[rows]
        some = ideal_denoiser(flat[rows].to(device), alpha[rows], sigma[rows], training_data(subject), wanted)
        said[rows] = some.to(said)
    return said.view_as(x_t)


def training_data(subject: Subject) -> Iterator[tuple[Tensor, Tensor | None]]:
    """All of it, with a progress bar."""
    with progress_bar(len(subject.train), "ideal denoiser", leave=False, delay=2, unit_scale=True) as bar:
        for batch in subject.train.batches():
            x_0 = to_model(subject, batch["x"])
            yield x_0, condition_of(subject, batch, x_0)
            bar.update(len(batch["x"]))


def errors(subject: Subject, said: Tensor, x_0: Tensor) -> Float[Tensor, "levels n"]:
    """Mean squared error of each sample, in the units of the data, float64."""
    to_units = subject.data.to_units
    return (to_units(said).double() - to_units(x_0).double()).square().flatten(2).mean(2)


def strip(subject: Subject, found: Denoised, levels: Levels, first: int) -> Image.Image:
    """Original, noisy and denoised, from sample `first` on, at some of the levels."""
    chosen = torch.linspace(0, len(levels.t) - 1, min(COLUMNS, len(levels.t))).round().long().tolist()
    rows = slice(first, None if subject.kind == "points" else first + SHOWN)
    units, power = subject.data.to_units, (levels.alpha**2 + levels.sigma**2).sqrt().tolist()
    return denoising_strip(
        units(found.x_0[rows]),
        [units(found.x_t[i, rows] / power[i]) for i in chosen],  # of a size that can be shown at all levels
        [units(found.model[i, rows]) for i in chosen],
        [f"log-SNR {levels.log_snr[i]:.3g}" for i in chosen],
        subject.kind,
    )


def quality_values(log_snr: list[float], quality: list[dict[str, float]]) -> dict[str, Value]:
    """Numbers at some noise levels; at all where those are not among them."""
    named = [v for v in NAMED if v in log_snr] or log_snr
    titles = {"psnr": "PSNR (dB)", "ssim": "SSIM"} if "psnr" in quality[0] else {"mse": "squared error"}
    return {
        f"{key}_log_snr_{v:.3g}": Value(
            f"{title} of test data at log-SNR {v:.3g}",
            quality[log_snr.index(v)][key],
            better="lower" if key == "mse" else "higher",
        )
        for key, title in titles.items()
        for v in named
    }

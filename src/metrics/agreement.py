"""Agreement of the samples with vectors and images that were asked for; that with labels is `class_accuracy`."""

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.diffusion.conditions import Measured, Vector
from src.diffusion.conditions.vector import Period, restored, standardized
from src.metrics.base import EvalContext, Metric, MetricValue, ReportSection
from src.statistics.image_quality import image_quality
from src.statistics.significance import Better
from src.utils.console import progress_bar
from src.utils.ranges import PositiveFloat, PositiveInt
from src.utils.seeding import derive_seed, generator


class Agreement(Metric):
    """How well the samples agree with their conditions.

    Vectors: the error of each number, in its own unit, as a regressor trained on the data sees it in the samples; its
    error on test data is the floor. Images: PSNR and SSIM between the samples and the test data that belong to the
    images, and for an image that was measured from the sample the error of the same measurement of the new one.

    Args:
        steps: training steps of the regressor.
        width: channels of its convolutions.
        lr: its highest learning rate.
    """

    def __init__(self, steps: PositiveInt = 800, width: PositiveInt = 64, lr: PositiveFloat = 2e-3):
        self.steps, self.width, self.lr = steps, width, lr

    def why_not_applicable(self, context: EvalContext) -> str | None:
        if reason := super().why_not_applicable(context):
            return reason
        members = context.pipeline.denoiser.condition.members.values()
        if not any(isinstance(part, Vector) for part in members) and not (
            context.paired and "image" in given_values(context)
        ):
            return "it is for vectors, and for images with condition=test"
        return "the samples are from a file, so that their conditions are unknown" if context.from_file else None

    def __call__(self, context: EvalContext) -> ReportSection:
        section = ReportSection("Agreement with the condition", notes=[*HOW_TO_READ])
        given = given_values(context)
        for name, part in context.pipeline.denoiser.condition.members.items():
            if isinstance(part, Vector):
                section.values |= self.vector_values(context, name, given[name], part.period)
            elif name in given and context.paired and given[name].ndim > 2:
                section.values |= image_values(context, part, given[name])
        return section

    def vector_values(
        self, context: EvalContext, name: str, asked: Tensor, period: Sequence[Period]
    ) -> dict[str, MetricValue]:
        """The median error of each number, and its median relative to the number asked for."""
        regressor = self.train(context, name, period)
        n = min(len(context.x), len(context.test))
        real = context.data.test_set[0, torch.randperm(len(context.test), generator=generator(context.seed, name))[:n]]
        fake = errors(regressor, context.to_model(context.x), asked)
        floor = errors(regressor, real["x"], real[name].float())
        names = getattr(context.data, "vector_names", None) or [f"{name}[{i}]" for i in range(asked.shape[1])]
        found = {}
        for i, entry in enumerate(names):
            e, f = fake[:, i], floor[:, i]
            low, high = median_interval(e)
            title = f"{entry}, median error"
            found[f"{name}_{i}_error"] = MetricValue(title, e.median().item(), low, high, f.median().item(), "lower")
            if period[i] is not None:
                continue  # on a circle zero is a point as any other
            relative = (e / asked[:, i].abs().clamp(min=1e-12)).median().item()
            true = (f / real[name][:, i].float().abs().clamp(min=1e-12)).median().item()
            title = f"{entry}, median relative error"
            found[f"{name}_{i}_relative"] = MetricValue(title, relative, real_baseline=true, better="lower")
        return found

    def train(self, context: EvalContext, name: str, period: Sequence[Period] = ()) -> "Regressor":
        """Train the regressor on the training data, in the units of the model, as a function of the seed."""
        data, size = context.data.train_set, 128
        draws = generator(context.seed, "regressor")
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
            torch.manual_seed(derive_seed(context.seed, "regressor"))
            first = data[0, torch.randperm(len(data), generator=draws)[: min(2000, len(data))]][name].float()
            regressor = Regressor(context.data.shape, first, self.width, period)
            optimizer = torch.optim.AdamW(regressor.parameters(), lr=self.lr)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, self.steps)
            with progress_bar(self.steps, "regressor", leave=False, delay=2) as bar:
                for step in range(self.steps):
                    rows = torch.randint(len(data), (size,), generator=draws)
                    batch = data[step * size // len(data), rows]
                    wanted = standardized(batch[name].float(), regressor.mean, regressor.std, regressor.period)
                    optimizer.zero_grad()
                    F.smooth_l1_loss(regressor.standardized(batch["x"]), wanted, beta=0.1).backward()
                    optimizer.step()
                    schedule.step()
                    bar.update()
        return regressor.eval()


HOW_TO_READ = [
    "Errors are in the unit of each number. The real-data value is the error of the same regressor on test data, below "
    "which no sample is distinguishable from one that agrees exactly.",
    "A sample of the posterior has twice the squared error of the posterior mean, 3 dB less in PSNR: with a higher "
    "PSNR the samples vary less than the data do.",
]


class Regressor(nn.Module):
    """Strided convolutions, or dense layers for points, that read a vector from samples (B, C, *S)."""

    mean: Tensor
    std: Tensor

    def __init__(self, shape: tuple[int, ...], vectors: Tensor, width: int, period: Sequence[Period] = ()):
        super().__init__()
        self.period = list(period) or [None] * vectors.shape[1]
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}.get(len(shape) - 1)
        layers: list[nn.Module] = []
        channels, size = shape[0], list(shape[1:])
        while conv is not None and (not layers or max(size) > 7):
            layers += [conv(channels, width, 5, stride=2, padding=2), nn.SiLU()]  # a norm would hide amplitudes
            channels, size = width, [ceil(s / 2) for s in size]
        numbers = len(self.period) + sum(p is not None for p in self.period)
        flat = channels * torch.Size(size).numel() if size else channels
        dense = [nn.Flatten(), nn.Linear(flat, 4 * width), nn.SiLU(), nn.Linear(4 * width, numbers)]
        self.layers = nn.Sequential(*layers, *dense)
        self.register_buffer("mean", vectors.mean(0))
        self.register_buffer("std", vectors.std(0).clamp(min=1e-12))

    def standardized(self, x: Tensor) -> Tensor:
        """The vector in standard deviations of the data."""
        return self.layers(x)

    def forward(self, x: Tensor) -> Tensor:
        return restored(self.standardized(x), self.mean, self.std, self.period)


@torch.no_grad()
def errors(regressor: Regressor, x: Tensor, asked: Tensor) -> Tensor:
    """The absolute error (N, k) of what the regressor sees in samples, on a circle the shorter way around."""
    found = (torch.cat([regressor(part.cpu().float()) for part in x.split(500)]) - asked.cpu()).abs()
    for i, period in enumerate(regressor.period):
        if period is not None:
            found[:, i] = torch.minimum(found[:, i] % period, period - found[:, i] % period)
    return found


def median_interval(values: Tensor) -> tuple[float, float]:
    """The 95 % interval of the median of values (N,), by the order statistics of a binomial."""
    n = len(values)
    half = 0.98 * n**0.5
    ordered = values.sort().values
    low, high = (min(max(round(n / 2 + sign * half), 0), n - 1) for sign in (-1, 1))
    return ordered[low].item(), ordered[high].item()


def given_values(context: EvalContext) -> dict[str, Tensor]:
    """The conditions of the samples by name."""
    condition, cond = context.pipeline.denoiser.condition, context.cond
    return cond if isinstance(cond, dict) else {} if cond is None else {condition.name: cond}


def image_values(context: EvalContext, condition: nn.Module, asked: Tensor) -> dict[str, MetricValue]:
    """Quality against the test data, and the error of the measurement."""
    truth = context.truth
    assert truth is not None
    found = {}
    titles = {
        "psnr": "PSNR to the paired data (dB)",
        "ssim": "SSIM to the paired data",
        "mse": "squared error to the paired data",
    }
    for key, value in image_quality(context.x, truth, images=context.kind == "images").items():
        better: Better = "lower" if key == "mse" else "higher"
        found[f"paired_{key}"] = MetricValue(titles[key], value, better=better, digits=4)
    if isinstance(condition, Measured):
        error = (condition.measure(context.to_model(context.x)) - asked).square().nanmean().sqrt().item()
        spread = asked[~asked.isnan()].std().item()
        title = "measured again, rms difference (standard deviations of the condition)"
        found["measured_again"] = MetricValue(title, error / max(spread, 1e-12), real_baseline=0.0, better="lower")
    return found

"""Remove noise from samples."""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from src.samplers.pipeline import Pipeline
from src.tasks.base import Result, Task, TaskInput, require_input
from src.utils.errors import UserError
from src.utils.ranges import PositiveFloat
from src.utils.seeding import generator


@dataclass
class Denoise(Task):
    r"""Estimate the data :math:`x_0` from noisy samples :math:`y = x_0 + s\, \epsilon`.

    They are scaled to :math:`x_t = \alpha_t y` at the time t with the same noise-to-signal ratio of the schedule,
    :math:`\sigma_t / \alpha_t = s`. One evaluation at t gives the posterior mean, with the least squared error;
    sampling from t to 0 gives a draw from the posterior, which is sharper than the mean.

    Args:
        noise_std: s, in the units of the data (images in [0, 1]), see `Units.std_to_model`; None to estimate it. It is
            added to test data.
        sample: True to sample from the posterior instead of computing its mean.
    """

    noise_std: PositiveFloat | None = None
    sample: bool = False

    def __post_init__(self) -> None:
        if self.noise_std is not None and self.noise_std <= 0:
            raise ValueError(f"task.noise_std must be > 0, got {self.noise_std}")

    def check(self, pipeline: Pipeline, inputs: TaskInput) -> None:
        """Refuse an input of another shape, and more noise than the model knows."""
        time_at(pipeline, self.std(pipeline, self.noisy(pipeline, inputs)))

    def __call__(self, pipeline: Pipeline, inputs: TaskInput) -> Result:
        noisy = self.noisy(pipeline, inputs)
        std = self.std(pipeline, noisy)
        t = time_at(pipeline, std)
        alpha = pipeline.denoiser.schedule.alpha_sigma(t)[0].to(noisy.dtype)
        batches = []
        for indices in pipeline.batches(len(noisy)):
            x_t = (alpha * noisy[indices.start : indices.stop]).to(pipeline.device)
            if self.sample:
                x_0 = pipeline.sample_batch(indices, x_t, float(t))
            else:
                x_0 = pipeline.denoise(indices)(x_t, t).x_0
            batches.append(x_0.cpu())
        source = "given" if self.noise_std is not None else "estimated"
        info = {"noise": f"{pipeline.std_to_units(std):.3g}, {source}; that is t = {float(t):.3g}"}
        return Result(torch.cat(batches), {"noisy": noisy}, inputs.truth, pipeline.cond, info=info)

    def std(self, pipeline: Pipeline, noisy: Tensor) -> float:
        """The standard deviation of the noise, in units of the model."""
        return pipeline.std_to_model(self.noise_std) if self.noise_std is not None else estimate_noise_std(noisy)

    def noisy(self, pipeline: Pipeline, inputs: TaskInput) -> Tensor:
        """The given samples, or the truth with noise added."""
        if inputs.x is not None:
            return require_input(inputs.x, pipeline)
        truth = require_input(inputs.truth, pipeline)
        if self.noise_std is None:
            raise UserError("input=test needs task.noise_std=, the noise to add, such as 0.3")
        noise = torch.randn(truth.shape, generator=generator(pipeline.seed, "noise of the input"))
        return truth + pipeline.std_to_model(self.noise_std) * noise


def time_at(pipeline: Pipeline, std: float) -> Tensor:
    """The time, float64, at which sigma / alpha of the schedule is `std`, in units of the model.

    Raises:
        UserError: if the schedule does not reach this noise level.
    """
    schedule = pipeline.denoiser.schedule
    alpha, sigma = schedule.alpha_sigma(torch.tensor(1.0, dtype=torch.float64))
    if std > 1.001 * float(sigma / alpha):
        given, most = (pipeline.std_to_units(v) for v in (std, float(sigma / alpha)))
        raise UserError(
            f"task.noise_std must be <= {most:.3g}, the most noise that this run was trained on, got {given:.3g}"
        )
    t = schedule.inverse_log_snr(torch.tensor(std, dtype=torch.float64).log() * -2)
    return t.clamp(1e-5, 1)


def estimate_noise_std(x: Tensor) -> float:
    r"""Estimate the standard deviation of white noise on samples (N, C, *S), by Donoho's method.

    .. math:: s = \operatorname{median} |d| / 0.6745

    with the finest Haar coefficients d along all axes, which for smooth data are mostly noise; then the median over the
    samples. The estimate is too low for clipped noise, as in an image file.

    Source: Donoho, Johnstone 1994, 10.1093/biomet/81.3.425, section 4.2.
    """
    if min(x.shape[2:], default=0) < 2:
        raise UserError("the noise of points cannot be estimated; set task.noise_std")
    haar = torch.tensor([1.0, -1.0]) / 2**0.5
    channels, axes = x.shape[1], x.ndim - 2
    kernel = reduce(lambda k, _: k[..., None] * haar, range(axes - 1), haar)
    convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    weight = kernel.expand(channels, 1, *kernel.shape).to(x)
    d = convolve(x, weight, stride=2, groups=channels)
    return max(1e-6, (d.flatten(1).abs().median(1).values / 0.6745).median().item())

"""Take the noise out of samples."""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from src.samplers.pipeline import Pipeline
from src.tasks.base import Inputs, Result, Task, wanted
from src.utils.errors import UserError
from src.utils.ranges import PositiveFloat
from src.utils.seeding import generator


@dataclass
class Denoise(Task):
    r"""Denoise samples :math:`y = x_0 + s\, \epsilon`.

    They are put where the schedule has as much noise, :math:`\sigma_t / \alpha_t = s`, as :math:`x_t = \alpha_t y`. One
    evaluation there is the mean of all that the data may be, which has the least squared error; a walk down to t = 0
    is one sample of it, sharp where the mean is blurred.

    Args:
        level: s, in the units of the data (images in [0, 1]); None to estimate it. Test data is given this much.
        walk: whether to walk.
    """

    level: PositiveFloat | None = None
    walk: bool = False

    def __post_init__(self) -> None:
        if self.level is not None and self.level <= 0:
            raise ValueError(f"task.level={self.level} is no noise; it is a standard deviation above 0")

    def __call__(self, pipeline: Pipeline, inputs: Inputs) -> Result:
        noisy = self.noisy(pipeline, inputs)
        level = self.level * pipeline.data_scale if self.level is not None else noise_level(noisy)
        t = time_of(pipeline, level)
        alpha = pipeline.denoiser.schedule.alpha_sigma(t)[0].to(noisy.dtype)
        parts = []
        for indices in pipeline.batches(len(noisy)):
            x_t = (alpha * noisy[indices.start : indices.stop]).to(pipeline.device)
            x_0 = pipeline.sample_batch(indices, x_t, float(t)) if self.walk else pipeline.denoise(indices)(x_t, t).x_0
            parts.append(x_0.cpu())
        how = "given" if self.level is not None else "estimated"
        facts = {"noise": f"{level / pipeline.data_scale:.3g}, {how}; that is t = {float(t):.3g}"}
        return Result(torch.cat(parts), {"noisy": noisy}, inputs.truth, pipeline.cond, facts=facts)

    def noisy(self, pipeline: Pipeline, inputs: Inputs) -> Tensor:
        """What was given, or the truth with noise."""
        if inputs.x is not None:
            return wanted(inputs.x, pipeline)
        truth = wanted(inputs.truth, pipeline)
        if self.level is None:
            raise UserError("input=test needs task.level=, the noise to add, such as 0.3")
        noise = torch.randn(truth.shape, generator=generator(pipeline.seed, "noise of the input"))
        return truth + self.level * pipeline.data_scale * noise


def time_of(pipeline: Pipeline, level: float) -> Tensor:
    """The time, float64, at which the schedule has this much noise beside data of its own size.

    Raises:
        UserError: where it never has.
    """
    schedule = pipeline.denoiser.schedule
    alpha, sigma = schedule.alpha_sigma(torch.tensor(1.0, dtype=torch.float64))
    if level > 1.001 * float(sigma / alpha):
        most = float(sigma / alpha) / pipeline.data_scale
        raise UserError(
            f"noise {level / pipeline.data_scale:.3g} is more than this run has learned of; at most {most:.3g}"
        )
    t = schedule.inverse_log_snr(torch.tensor(level, dtype=torch.float64).log() * -2)
    return t.clamp(1e-5, 1)


def noise_level(x: Tensor) -> float:
    r"""The standard deviation of white noise on samples (N, C, *S), by Donoho's estimate.

    .. math:: s = \operatorname{median} |d| / 0.6745

    of the finest Haar coefficients d, along all axes, where smooth data leaves little but noise. The median over the
    samples. Noise that was clipped, as it is in a picture file, is estimated too low.

    Source: Donoho, Johnstone 1994, 10.1093/biomet/81.3.425, section 4.2.
    """
    if min(x.shape[2:], default=0) < 2:
        raise UserError("the noise of points cannot be estimated; give it by task.level=")
    haar = torch.tensor([1.0, -1.0]) / 2**0.5
    channels, axes = x.shape[1], x.ndim - 2
    kernel = reduce(lambda k, _: k[..., None] * haar, range(axes - 1), haar)
    convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    weight = kernel.expand(channels, 1, *kernel.shape).to(x)
    d = convolve(x, weight, stride=2, groups=channels)
    return max(1e-6, (d.flatten(1).abs().median(1).values / 0.6745).median().item())

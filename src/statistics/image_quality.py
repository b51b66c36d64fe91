"""Quality of images, fields and volumes against a ground truth."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

SIGMA, RADIUS = 1.5, 5  # of the window of SSIM, in elements


def image_quality(x: Tensor, truth: Tensor, clip: bool = True, images: bool | None = None) -> dict[str, float]:
    r"""The mean squared error and, of images, fields and volumes, PSNR (dB) and SSIM, each averaged over the samples.

    .. math:: \text{PSNR} = -10 \log_{10} (\text{MSE} / R^2)

    The range R is 1 for images, else that of the truth. SSIM is left out if an axis is shorter than half its window.

    Args:
        x: (N, C, *S) in the units of the data: images in [0, 1].
        truth: the ground truth of x.
        clip: clip images to [0, 1] first.
        images: True if the samples are images; by default if they have four axes.

    Source: SSIM: Wang et al. 2004, 10.1109/TIP.2003.819861.
    """
    if truth.ndim < 4:
        return {"mse": (x - truth).square().mean().item()}
    images = truth.ndim == 4 if images is None else images
    x = x.clamp(0, 1) if images and clip else x
    data_range = 1.0 if images else max((truth.max() - truth.min()).item(), 1e-12)
    mse = (x - truth).square().flatten(1).mean(1)
    relative = (mse / data_range**2).clamp(min=1e-10)
    found = {"mse": (relative if images else mse).mean().item(), "psnr": (-10 * torch.log10(relative)).mean().item()}
    return found | ({"ssim": ssim(x, truth, data_range)} if min(truth.shape[2:]) > RADIUS else {})


def ssim(x: Tensor, truth: Tensor, data_range: float) -> float:
    """The structural similarity, averaged over the samples: of images as torchmetrics computes it."""
    if truth.ndim == 4:
        from torchmetrics.functional.image import structural_similarity_index_measure

        return float(structural_similarity_index_measure(x, truth, data_range=data_range))  # type: ignore[arg-type]
    return sum(
        volume_ssim(a, b, data_range).sum().item() for a, b in zip(x.split(1), truth.split(1), strict=True)
    ) / len(x)


def volume_ssim(
    x: Float[Tensor, "n c d h w"], truth: Float[Tensor, "n c d h w"], data_range: float
) -> Float[Tensor, " n"]:
    """The structural similarity of each volume, with a Gaussian window along each axis in turn.

    torchmetrics has the same values, but convolves with the whole window, in forty times the operations.
    """
    offsets = torch.arange(-RADIUS, RADIUS + 1, dtype=x.dtype)
    bell = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    weights = (bell / bell.sum()).tolist()

    def blur(v: Tensor) -> Tensor:
        v = F.pad(v, [RADIUS] * 6, mode="reflect")
        for axis in (2, 3, 4):
            n = v.shape[axis] - 2 * RADIUS
            v = torch.stack([w * v.narrow(axis, i, n) for i, w in enumerate(weights)]).sum(0)
        return v

    mean_x, mean_y = blur(x), blur(truth)
    var_x, var_y = (blur(x * x) - mean_x**2).clamp(min=0), (blur(truth * truth) - mean_y**2).clamp(min=0)
    c_1, c_2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    structure = (2 * (blur(x * truth) - mean_x * mean_y) + c_2) / (var_x + var_y + c_2)
    return ((2 * mean_x * mean_y + c_1) / (mean_x**2 + mean_y**2 + c_1) * structure).flatten(1).mean(1)

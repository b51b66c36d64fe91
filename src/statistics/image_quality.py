"""Image quality against a ground truth."""

import torch
from torch import Tensor


def image_quality(x: Tensor, truth: Tensor, clip: bool = True, images: bool | None = None) -> dict[str, float]:
    r"""The mean squared error and, for images, PSNR (dB) and SSIM, each averaged over the samples.

    .. math:: \text{PSNR} = -10 \log_{10} \text{MSE}

    Args:
        x: (N, C, *S) in the units of the data: images in [0, 1].
        truth: the ground truth of x.
        clip: clip images to [0, 1] first.
        images: True if the samples are images; by default if they have four axes.

    Source: SSIM: Wang et al. 2004, 10.1109/TIP.2003.819861.
    """
    if truth.ndim != 4 or images is False:
        return {"mse": (x - truth).square().mean().item()}
    from torchmetrics.functional.image import structural_similarity_index_measure

    x = x.clamp(0, 1) if clip else x
    mse = (x - truth).square().flatten(1).mean(1).clamp(min=1e-10)
    ssim = structural_similarity_index_measure(x, truth, data_range=1.0)
    assert isinstance(ssim, Tensor)
    return {"mse": mse.mean().item(), "psnr": (-10 * torch.log10(mse)).mean().item(), "ssim": ssim.item()}

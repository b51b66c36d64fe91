"""How close restored samples are to the truth."""

import torch
from torch import Tensor

from src.utils.units import Kind


def restoration(x: Tensor, truth: Tensor, clip: bool = True, kind: Kind | None = None) -> dict[str, float]:
    r"""Means over the samples: mse and, of images, psnr (dB) and ssim.

    .. math:: \text{PSNR} = -10 \log_{10} \text{MSE}

    Args:
        x: (N, C, *S) in the units of the data: images in [0, 1].
        truth: the same.
        clip: whether to bring images to [0, 1] first.
        kind: of the samples; by default images where they have two axes.

    Source: SSIM: Wang et al. 2004, 10.1109/TIP.2003.819861.
    """
    if truth.ndim != 4 or kind not in (None, "images"):
        return {"mse": (x - truth).square().mean().item()}
    from torchmetrics.functional.image import structural_similarity_index_measure

    x = x.clamp(0, 1) if clip else x
    mse = (x - truth).square().flatten(1).mean(1).clamp(min=1e-10)
    ssim = structural_similarity_index_measure(x, truth, data_range=1.0)
    assert isinstance(ssim, Tensor)
    return {"mse": mse.mean().item(), "psnr": (-10 * torch.log10(mse)).mean().item(), "ssim": ssim.item()}

"""Guidance: wraps `denoise`, returns `denoise`."""

from collections.abc import Callable

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class NoGuidance:
    """Leaves the denoiser as it is."""

    def __call__(self, denoise: Denoise) -> Denoise:
        return denoise


class ClassifierFree:
    r"""Pushes away from what the network says without a label.

    .. math:: \hat x_0 = \hat x_0(\varnothing) + w\, (\hat x_0(y) - \hat x_0(\varnothing))

    Both are evaluated in one call on a doubled batch. Samples without a label are left alone.

    Args:
        scale: w; 1 is plain conditional sampling, 0 unconditional.

    Source: Ho, Salimans 2022, arXiv:2207.12598, eq. 6 (there with w - 1 for w).
    """

    def __init__(self, scale: float = 2.0):
        self.scale = scale

    def __call__(self, denoise: Denoise) -> Denoise:
        def guided(x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
            if cond is None or self.scale == 1:
                return denoise(x_t, t, cond)
            both = torch.cat([cond, torch.full_like(cond, -1)])
            times = torch.cat([t, t]) if t.ndim else t
            with_label, without = denoise(torch.cat([x_t, x_t]), times, both).chunk(2)
            return torch.lerp(without, with_label, self.scale)

        return guided

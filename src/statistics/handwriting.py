"""Thickness and slant of handwritten characters, from their pixels."""

from math import pi

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

DARK = 1e-6  # ink, in pixels, below which a picture counts as empty


def stroke_width(x: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, " batch"]:
    r"""The mean width of the strokes in pixels, twice their area divided by the length of their outline.

    .. math:: w = \frac{2 \int x}{\int |\nabla x|}

    A stroke of length L and width w has the area L w and two sides of length L. For gray edges the length of the
    outline is the total variation, by the coarea formula the mean of the lengths of all level lines, so that blur
    hardly changes it, and contrast not at all. The ends of strokes shorten w by the factor L / (L + w).

    Shapes: x (B, 1, H, W), black 0 to white 1, white on black; result (B,), 0 for an empty picture.

    Source: Federer 1959, 10.1090/S0002-9947-1959-0110078-1 (the coarea formula).
    """
    x = F.pad(x.double(), (1, 1, 1, 1))
    # The diagonal differences of each square of four pixels: unlike those of neighbors they are centered alike.
    d_1, d_2 = x[..., 1:, 1:] - x[..., :-1, :-1], x[..., 1:, :-1] - x[..., :-1, 1:]
    outline = ((d_1.square() + d_2.square()) / 2).sqrt().sum((1, 2, 3))
    area = x.sum((1, 2, 3))
    return torch.where(area > DARK, 2 * area / outline.clamp(min=DARK), 0.0).float()


def slant(x: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, " batch"]:
    r"""The angle in degrees by which a character leans to the right, that of the shear which makes it upright.

    .. math:: \theta = \arctan \frac{\mu_{11}}{\mu_{02}}, \quad
              \mu_{pq} = \sum_{u, v} x_{uv}\, (u - \bar u)^p (v - \bar v)^q

    with u to the right and v upwards: the regression of u on v, by which the rows of the picture shift. A shear by
    :math:`\tan \theta'` adds :math:`\tan \theta'` to :math:`\tan \theta`.

    Shapes: x (B, 1, H, W), black 0 to white 1, white on black; result (B,), 0 for a picture without height.

    Source: moments: Hu 1962, 10.1109/TIT.1962.1057692.
    """
    ink = x.double()[:, 0]
    u = torch.arange(x.shape[3], dtype=torch.float64, device=x.device)
    v = -torch.arange(x.shape[2], dtype=torch.float64, device=x.device)[:, None]
    area = ink.sum((1, 2)).clamp(min=DARK)
    du, dv = (w - ((ink * w).sum((1, 2)) / area)[:, None, None] for w in (u, v))
    covariance, variance = ((ink * du * dv).sum((1, 2)) / area, (ink * dv * dv).sum((1, 2)) / area)
    return (torch.atan2(covariance, variance.clamp(min=DARK)) * 180 / pi).float()

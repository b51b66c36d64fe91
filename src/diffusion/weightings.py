r"""Weightings: how much each noise level counts, stated once, in the space of the data.

The objective is :math:`E[\, w(t)\, \lVert \hat x_0 - x_0 \rVert^2 ]`, whatever the parameterization, so that changing
what the network predicts does not change what it is trained for. Each function maps (alpha, sigma) to w.
"""

import torch

from src.diffusion.schedules import Time


def uniform(alpha: Time, sigma: Time) -> Time:
    """w = 1: the mean squared error of x_0."""
    return torch.ones_like(alpha)


def simple(alpha: Time, sigma: Time) -> Time:
    r""":math:`w = \alpha^2 / \sigma^2`: the mean squared error of the noise.

    Source: Ho et al. 2020, arXiv:2006.11239, eq. 14.
    """
    return (alpha / sigma) ** 2


def velocity(alpha: Time, sigma: Time) -> Time:
    r""":math:`w = 1 + \alpha^2 / \sigma^2`: on a variance-preserving schedule the mean squared error of v.

    Source: Salimans, Ho 2022, arXiv:2202.00512, section 4 ("SNR + 1").
    """
    return 1 + (alpha / sigma) ** 2

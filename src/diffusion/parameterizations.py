r"""Parameterizations: what the network's output means, as scalings around it.

.. math:: \hat x_0 = c_\text{skip}\, x_t + c_\text{out}\, F(c_\text{in}\, x_t,\ c_\text{noise})

The input is scaled to unit variance for data of unit variance, which leaves variance-preserving schedules as they are.
`c_noise` is what the network is told about the noise level; 1000 t, the usual range of embeddings, unless stated.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch

from src.diffusion.schedules import Schedule, Time


class Scalings(NamedTuple):
    """The four coefficients, float64, each shaped as t."""

    c_in: Time
    c_skip: Time
    c_out: Time
    c_noise: Time


class Parameterization(ABC):
    """A new one is one method: four coefficients."""

    @abstractmethod
    def scalings(self, t: Time, alpha: Time, sigma: Time) -> Scalings:
        """The coefficients at times t, whose signal and noise are alpha and sigma."""

    def check(self, schedule: Schedule) -> None:  # noqa: B027 - most have nothing to refuse
        """Refuse a schedule with which this parameterization is singular, with the reason and a way out."""


class Epsilon(Parameterization):
    r"""The network predicts the noise: :math:`\hat x_0 = (x_t - \sigma_t F) / \alpha_t`.

    Source: Ho et al. 2020, arXiv:2006.11239, eq. 11.
    """

    def scalings(self, t, alpha, sigma):
        return Scalings((alpha**2 + sigma**2).rsqrt(), 1 / alpha, -sigma / alpha, 1000 * t)

    def check(self, schedule):
        check_signal(schedule, "eps")


class Data(Parameterization):
    r"""The network predicts the data: :math:`\hat x_0 = F`.

    Source: Ho et al. 2020, arXiv:2006.11239, section 3.2; Ramesh et al. 2022, arXiv:2204.06125, section 2.2.
    """

    def scalings(self, t, alpha, sigma):
        return Scalings((alpha**2 + sigma**2).rsqrt(), torch.zeros_like(alpha), torch.ones_like(alpha), 1000 * t)


class Velocity(Parameterization):
    r"""The network predicts :math:`v = (\alpha_t \epsilon - \sigma_t x_0) / \sqrt{\alpha_t^2 + \sigma_t^2}`.

    .. math:: \hat x_0 = (\alpha_t x_t - \sigma_t \sqrt{\alpha_t^2 + \sigma_t^2}\, F) / (\alpha_t^2 + \sigma_t^2)

    It is defined at every noise level, the pure noise included.

    Source: Salimans, Ho 2022, arXiv:2202.00512, appendix D.
    """

    def scalings(self, t, alpha, sigma):
        power = alpha**2 + sigma**2
        return Scalings(power.rsqrt(), alpha / power, -sigma * power.rsqrt(), 1000 * t)


def check_signal(schedule: Schedule, name: str) -> None:
    """Refuse a schedule without signal at t = 1, where this parameterization would divide by zero."""
    alpha, sigma = schedule.alpha_sigma(torch.tensor(1.0, dtype=torch.float64))
    if alpha < 1e-6 * sigma:
        raise ValueError(
            f"parameterization={name} divides by alpha, which is {alpha:.1e} at t = 1 on this schedule; "
            "use parameterization=v or x0"
        )

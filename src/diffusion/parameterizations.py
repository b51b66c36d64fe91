r"""Parameterizations: the meaning of the network's output F, by four coefficients.

.. math:: \hat x_0 = c_\text{skip}\, x_t + c_\text{out}\, F(c_\text{in}\, x_t,\ c_\text{noise})

The input is scaled to unit variance for data of unit variance, so `c_in` is 1 on variance-preserving schedules.
`c_noise` is the noise level as the input of the time embedding; 1000 t, the usual range, unless stated.
"""

from abc import ABC, abstractmethod
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Gt

from src.diffusion.schedules import Schedule, Time, posterior_weights


class Preconditioning(NamedTuple):
    """The four coefficients, float64, each shaped as t."""

    c_in: Time
    c_skip: Time
    c_out: Time
    c_noise: Time


class Parameterization(ABC):
    """The base class of parameterizations. A new one implements `preconditioning`."""

    @abstractmethod
    def preconditioning(self, schedule: Schedule, t: Time) -> Preconditioning:
        """The coefficients at times t."""

    def check(self, schedule: Schedule) -> None:  # noqa: B027 - most are never singular
        """Raise ValueError if this parameterization is singular on the schedule."""


class Eps(Parameterization):
    r"""The network predicts the noise: :math:`\hat x_0 = (x_t - \sigma_t F) / \alpha_t`.

    Source: Ho et al. 2020, arXiv:2006.11239, eq. 11.
    """

    def preconditioning(self, schedule, t):
        alpha, sigma = schedule.alpha_sigma(t)
        return Preconditioning((alpha**2 + sigma**2).rsqrt(), 1 / alpha, -sigma / alpha, 1000 * t)

    def check(self, schedule):
        _check_signal(schedule, "eps")


class Score(Parameterization):
    r"""The network predicts the score times the noise level, :math:`F = \sigma_t \nabla \log p(x_t)`.

    .. math:: \hat x_0 = (x_t + \sigma_t F) / \alpha_t

    Dividing the output by :math:`\sigma_t` is what keeps it of one size at all noise levels.

    Source: Song, Ermon 2020, arXiv:2006.09011, section 3.2 (technique 3); Song et al. 2021, arXiv:2011.13456.
    """

    def preconditioning(self, schedule, t):
        alpha, sigma = schedule.alpha_sigma(t)
        return Preconditioning((alpha**2 + sigma**2).rsqrt(), 1 / alpha, sigma / alpha, 1000 * t)

    def check(self, schedule):
        _check_signal(schedule, "score")


class X0(Parameterization):
    r"""The network predicts the data: :math:`\hat x_0 = F`.

    Source: Ho et al. 2020, arXiv:2006.11239, section 3.2; Ramesh et al. 2022, arXiv:2204.06125, section 2.2.
    """

    def preconditioning(self, schedule, t):
        alpha, sigma = schedule.alpha_sigma(t)
        return Preconditioning((alpha**2 + sigma**2).rsqrt(), torch.zeros_like(alpha), torch.ones_like(alpha), 1000 * t)


class V(Parameterization):
    r"""The network predicts :math:`v = (\alpha_t \epsilon - \sigma_t x_0) / \sqrt{\alpha_t^2 + \sigma_t^2}`.

    .. math:: \hat x_0 = (\alpha_t x_t - \sigma_t \sqrt{\alpha_t^2 + \sigma_t^2}\, F) / (\alpha_t^2 + \sigma_t^2)

    It is defined at every noise level, the pure noise included.

    Source: Salimans, Ho 2022, arXiv:2202.00512, appendix D.
    """

    def preconditioning(self, schedule, t):
        alpha, sigma = schedule.alpha_sigma(t)
        power = alpha**2 + sigma**2
        return Preconditioning(power.rsqrt(), alpha / power, -sigma * power.rsqrt(), 1000 * t)


class Flow(Parameterization):
    r"""The network predicts the velocity of the path, :math:`u = \epsilon - x_0`.

    .. math:: \hat x_0 = (x_t - \sigma_t F) / (\alpha_t + \sigma_t)

    On `schedule=flow` u is the velocity dx/dt; elsewhere it is as well defined.

    Source: Liu et al. 2023, arXiv:2209.03003, eq. 1; Lipman et al. 2023, arXiv:2210.02747, eq. 23.
    """

    def preconditioning(self, schedule, t):
        alpha, sigma = schedule.alpha_sigma(t)
        both = alpha + sigma
        return Preconditioning((alpha**2 + sigma**2).rsqrt(), 1 / both, -sigma / both, 1000 * t)


class EDM(Parameterization):
    r"""Preconditioning that gives the network inputs and targets of unit variance at every noise level.

    .. math:: c_\text{in} = \frac{1}{\sqrt p}, \quad c_\text{skip} = \frac{\alpha_t \sigma_d^2}{p}, \quad
              c_\text{out} = \frac{\sigma_t \sigma_d}{\sqrt p}, \quad p = \alpha_t^2 \sigma_d^2 + \sigma_t^2, \quad
              c_\text{noise} = 1000 \cdot \tfrac14 \log(\sigma_t / \alpha_t)

    The paper's, for :math:`x_t / \alpha_t = x_0 + (\sigma_t / \alpha_t) \epsilon`; c_noise is its value in the units of
    embeddings made for 1000 steps.

    Args:
        sigma_data: :math:`\sigma_d`, the standard deviation of the data.

    Source: Karras et al. 2022, arXiv:2206.00364, table 1.
    """

    def __init__(self, sigma_data: Annotated[float, Gt(0)] = 0.5):
        if sigma_data <= 0:
            raise ValueError(f"parameterization.sigma_data must be > 0, got {sigma_data}")
        self.sigma_data = sigma_data

    def preconditioning(self, schedule, t):
        alpha, sigma = schedule.alpha_sigma(t)
        power = (alpha * self.sigma_data) ** 2 + sigma**2
        # Bounded where there is no noise, or nothing else, at a level that no training reaches.
        c_noise = (-125 * schedule.log_snr(t)).clamp(-5000, 5000)
        return Preconditioning(
            power.rsqrt(), alpha * self.sigma_data**2 / power, sigma * self.sigma_data * power.rsqrt(), c_noise
        )


class PosteriorMean(Parameterization):
    r"""The network predicts the mean of the reverse step, :math:`\tilde\mu(x_t, x_0)` with s = t - 1 / T.

    .. math:: F = a\, x_t + b\, \hat x_0, \quad a = \alpha_{t|s} \sigma_s^2 / \sigma_t^2, \quad
              b = \alpha_s \sigma_{t|s}^2 / \sigma_t^2, \quad \hat x_0 = (F - a\, x_t) / b

    b is small wherever a step is, so that errors of the network weigh heavily in :math:`\hat x_0`: of the classical
    parameterizations this is the hardest to train.

    Args:
        steps: T.

    Source: Sohl-Dickstein et al. 2015, arXiv:1503.03585, section 2.2; Ho et al. 2020, arXiv:2006.11239, eq. 7 and 8.
    """

    def __init__(self, steps: Annotated[int, Ge(1)] = 1000):
        if steps < 1:
            raise ValueError(f"parameterization.steps must be >= 1, got {steps}")
        self.steps = steps

    def preconditioning(self, schedule, t):
        alpha, sigma = schedule.alpha_sigma(t)
        # Times within the first step have its coefficients, so that those at t = 0 are finite.
        later = t.clamp(min=1 / self.steps)
        a, b = posterior_coefficients(schedule, later - 1 / self.steps, later)
        return Preconditioning((alpha**2 + sigma**2).rsqrt(), -a / b, 1 / b, 1000 * t)


def posterior_coefficients(schedule: Schedule, s: Time, t: Time) -> tuple[Time, Time]:
    r"""a and b of the mean :math:`a\, x_t + b\, x_0` of :math:`q(x_s | x_t, x_0)`; see :class:`PosteriorMean`.

    Source: Ho et al. 2020, arXiv:2006.11239, eq. 7.
    """
    alpha_s, sigma_s = schedule.alpha_sigma(s)
    _, sigma_t = schedule.alpha_sigma(t)
    return posterior_weights(alpha_s, sigma_s, sigma_t, *schedule.transition(s, t))


def _check_signal(schedule: Schedule, name: str) -> None:
    """Raise ValueError for schedules without signal at t = 1, where the parameterization divides by zero."""
    alpha, sigma = schedule.alpha_sigma(torch.tensor(1.0, dtype=torch.float64))
    if alpha < 1e-6 * sigma:
        raise ValueError(
            f"parameterization={name} divides by alpha, which is {alpha:.1e} at t = 1 on this schedule; "
            "use parameterization=v, flow, edm or x0"
        )

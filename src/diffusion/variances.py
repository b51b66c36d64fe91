r"""Variances v of the reverse steps :math:`p(x_s | x_t) = N(\mu, v\, I)`.

They are between two bounds: the variance of :math:`q(x_s | x_t, x_0)`, optimal for data at one point, and that of
:math:`q(x_t | x_s)`, optimal for data of white noise. (Ho et al. 2020, arXiv:2006.11239, section 3.2.)
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from src.diffusion.schedules import Schedule, Time, expand_like


class Variance(ABC):
    """The base class of variances. A new one implements `log_variance_between`.

    Attributes:
        outputs: number of outputs of the network, each shaped as the data; 2 for a learned variance.
    """

    outputs = 1

    @abstractmethod
    def log_variance_between(self, small: Tensor, large: Tensor, output: Tensor | None) -> Tensor:
        """log v from the logarithms of the two bounds and the second output of the network, broadcast to x."""

    def log_variance(self, schedule: Schedule, s: Time, t: Time, like: Tensor, output: Tensor | None) -> Tensor:
        """log v of the step from t to s, broadcastable to `like`, (B, C, *S)."""
        small, large = (expand_like(v, like) for v in log_variance_bounds(schedule, s, t))
        return self.log_variance_between(small, large, output)


class FixedSmallVariance(Variance):
    r"""The variance of the posterior :math:`q(x_s \mid x_t, x_0)`."""

    def log_variance_between(self, small, large, output):
        return small


class FixedLargeVariance(Variance):
    r"""The variance of the forward step, :math:`\beta_t`."""

    def log_variance_between(self, small, large, output):
        return large


class LearnedRangeVariance(Variance):
    r"""Interpolation between the fixed variances: :math:`\log v = \frac{1 + F}{2} \log v_\text{large} +
    \frac{1 - F}{2} \log v_\text{small}`.

    Source: Nichol, Dhariwal 2021, arXiv:2102.09672, eq. 15.
    """

    outputs = 2

    def log_variance_between(self, small, large, output):
        assert output is not None
        return small + (large - small) * ((1 + output) / 2)


class LearnedVariance(Variance):
    r"""A free network output: :math:`\log v = \log v_\text{large} + F`.

    Source: Sohl-Dickstein et al. 2015, arXiv:1503.03585, section 2.2 and appendix D.
    """

    outputs = 2

    def log_variance_between(self, small, large, output):
        assert output is not None
        return large + output


def log_variance_bounds(schedule: Schedule, s: Time, t: Time) -> tuple[Time, Time]:
    r"""The logarithms of the small and the large variance of the step from t to s, each shaped as t.

    .. math:: v_\text{small} = \frac{\sigma_s^2 \sigma_{t|s}^2}{\sigma_t^2}, \quad v_\text{large} = \sigma_{t|s}^2

    The small variance is 0 where s = 0; that of the step from 2t to t replaces it.

    Source: Nichol, Dhariwal 2021, arXiv:2102.09672, code ("posterior log variance clipped").
    """
    _, sigma_ts = schedule.transition(s, t)
    large = 2 * sigma_ts.log()
    low = torch.where(s > 0, s, t)
    high = torch.where(s > 0, t, (2 * t).clamp(max=1))
    _, sigma_low = schedule.alpha_sigma(low)
    _, sigma_high = schedule.alpha_sigma(high)
    _, step = schedule.transition(low, high)
    small = 2 * (sigma_low * step / sigma_high).log()
    return torch.where(small.isfinite(), small, large), large

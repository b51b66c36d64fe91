r"""Weightings of the noise levels, in the space of the data.

The objective is :math:`E[\, w(t)\, \lVert \hat x_0 - x_0 \rVert^2 ]` for every parameterization, so the output of the
network can change without a change of the objective. Each function maps a schedule and times to w, float64 and shaped
as t. The squared error of the noise is SNR times that of the data, :math:`\text{SNR} = \alpha_t^2 / \sigma_t^2`, so the
weight of the error of the noise is w / SNR.

The expectation is over the times of the time sampler. Most sources state their weighting for t uniform on a schedule:
it depends on SNR alone, and the schedule determines the density of noise levels. `edm` belongs to a distribution of
noise levels, `time_sampler=log_normal`. `sigmoid` and `likelihood` are weights per noise level
:math:`\lambda = \log \text{SNR}`: a weight :math:`\omega(\lambda)` of the error of the noise is

.. math:: \tfrac12 \int \omega(\lambda)\, E \lVert \hat\epsilon - \epsilon \rVert^2 \, d\lambda
          = E_{t \sim U(0, 1)}[\, w(t)\, \lVert \hat x_0 - x_0 \rVert^2 ], \quad
          w(t) = -\tfrac12 \frac{d\lambda_t}{dt}\, \text{SNR}\, \omega(\lambda_t)

for every schedule (Kingma, Gao 2023, arXiv:2303.00848, sections 2 and 3).
"""

import math
from typing import Annotated

import torch
from annotated_types import Ge, Gt

from src.diffusion.schedules import Schedule, Time


def snr_at(schedule: Schedule, t: Time) -> Time:
    """The signal-to-noise ratio, at most e^80."""
    return schedule.log_snr(t).clamp(max=80).exp()


def uniform_weighting(schedule: Schedule, t: Time) -> Time:
    """w = 1: the mean squared error of x_0."""
    return torch.ones_like(snr_at(schedule, t))


def simple_weighting(schedule: Schedule, t: Time) -> Time:
    r"""w = SNR: the mean squared error of the noise.

    Source: Ho et al. 2020, arXiv:2006.11239, eq. 14; as "SNR weighting" in Salimans, Ho 2022, arXiv:2202.00512, eq. 9.
    """
    return snr_at(schedule, t)


def v_weighting(schedule: Schedule, t: Time) -> Time:
    r"""w = 1 + SNR: the mean squared error of v.

    Source: Salimans, Ho 2022, arXiv:2202.00512, section 4 ("SNR + 1").
    """
    return 1 + snr_at(schedule, t)


def flow_weighting(schedule: Schedule, t: Time) -> Time:
    r""":math:`w = ((\alpha_t + \sigma_t) / \sigma_t)^2`: the mean squared error of the flow's velocity.

    Source: Lipman et al. 2023, arXiv:2210.02747, eq. 23.
    """
    return (1 + snr_at(schedule, t).sqrt()) ** 2


def truncated_snr_weighting(schedule: Schedule, t: Time) -> Time:
    """w = max(SNR, 1).

    Source: Salimans, Ho 2022, arXiv:2202.00512, eq. 10.
    """
    return snr_at(schedule, t).clamp(min=1)


def min_snr_weighting(schedule: Schedule, t: Time, gamma: Annotated[float, Ge(0)] = 5.0) -> Time:
    r""":math:`w = \min(\text{SNR}, \gamma)`.

    Source: Hang et al. 2023, arXiv:2303.09556, section 3.4.
    """
    return snr_at(schedule, t).clamp(max=gamma)


def soft_min_snr_weighting(schedule: Schedule, t: Time, gamma: Annotated[float, Ge(0)] = 5.0) -> Time:
    r""":math:`w = \gamma\, \text{SNR} / (\text{SNR} + \gamma)`, a smooth minimum of the two.

    Source: Crowson et al. 2024, arXiv:2401.11605, eq. 4 (there with gamma = 4 for data of standard deviation 0.5).
    """
    snr = snr_at(schedule, t)
    return gamma * snr / (snr + gamma)


def p2_weighting(
    schedule: Schedule, t: Time, gamma: Annotated[float, Ge(0)] = 1.0, k: Annotated[float, Gt(0)] = 1.0
) -> Time:
    r""":math:`w = \text{SNR} / (k + \text{SNR})^\gamma`, a lower weight for imperceptible details.

    Source: Choi et al. 2022, arXiv:2204.00227, eq. 8 (of the noise's error there).
    """
    snr = snr_at(schedule, t)
    return snr / (k + snr) ** gamma


def edm_weighting(schedule: Schedule, t: Time, sigma_data: Annotated[float, Gt(0)] = 0.5) -> Time:
    r""":math:`w = (\tilde\sigma^2 + \sigma_d^2) / (\tilde\sigma \sigma_d)^2 = \text{SNR} + 1 / \sigma_d^2` with
    :math:`\tilde\sigma = \sigma / \alpha`: unit weight for the output of `parameterization=edm`.

    The paper combines it with `time_sampler=log_normal`.

    Source: Karras et al. 2022, arXiv:2206.00364, table 1 and eq. 8.
    """
    if sigma_data <= 0:
        raise ValueError(f"weighting.sigma_data must be > 0, got {sigma_data}")
    return snr_at(schedule, t) + 1 / sigma_data**2


def sigmoid_weighting(schedule: Schedule, t: Time, bias: float = 2.0) -> Time:
    r""":math:`\omega(\lambda) = \operatorname{sigmoid}(b - \lambda)`: with t uniform, one objective on every schedule.

    .. math:: w = -\tfrac12 \frac{d\lambda_t}{dt}\, \text{SNR} \operatorname{sigmoid}(b - \lambda_t)
                = -\tfrac12 \frac{d\lambda_t}{dt}\, e^b \operatorname{sigmoid}(\lambda_t - b)

    The second form is that of Hoogeboom et al. for the error of the data. It grows as 1 / t towards t = 0, where the
    log-SNR is infinite; see :func:`clamp_from_ends`.

    Source: Kingma, Gao 2023, arXiv:2303.00848, section 5; Hoogeboom et al. 2024, arXiv:2410.19324,
    section 3.
    """
    t = clamp_from_ends(t)
    return noise_level_rate(schedule, t) * math.exp(bias) * torch.sigmoid(schedule.log_snr(t) - bias)


def likelihood_weighting(schedule: Schedule, t: Time) -> Time:
    r""":math:`\omega = 1`, that is :math:`w = -\tfrac12\, d\,\text{SNR} / dt`: with `loss=mse` and t uniform, the
    diffusion term of the negative variational bound, in nats per dimension.

    Source: Kingma et al. 2021, arXiv:2107.00630, eq. 17; Song et al. 2021, arXiv:2101.09258, eq. 7.
    """
    t = clamp_from_ends(t)
    return noise_level_rate(schedule, t) * snr_at(schedule, t)


def clamp_from_ends(t: Time) -> Time:
    """Clamp times to [1e-6, 1 - 1e-6], for finite weights at t = 0, and at t = 1 on schedules that end without signal,
    whose rate is infinite there and whose SNR is 0.
    """
    return t.clamp(1e-6, 1 - 1e-6)


def noise_level_rate(schedule: Schedule, t: Time) -> Time:
    r""":math:`-\tfrac12\, d\lambda_t / dt`: the rate of change of the noise level."""
    return -schedule.log_snr_rate(t) / 2

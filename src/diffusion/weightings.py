r"""Weightings: how much each noise level counts, stated once, in the space of the data.

The objective is :math:`E[\, w(t)\, \lVert \hat x_0 - x_0 \rVert^2 ]`, whatever the parameterization, so that changing
what the network predicts does not change what it is trained for. Each function maps a schedule and times to w, float64
and shaped as t. Most depend on t through the signal-to-noise ratio :math:`\text{SNR} = \alpha_t^2 / \sigma_t^2` alone;
the error of the noise is SNR times that of the data, so that a weight of the noise's error is w / SNR.
"""

import torch

from src.diffusion.schedules import Schedule, Time


def snr_at(schedule: Schedule, t: Time) -> Time:
    """The signal-to-noise ratio, bounded where there is no noise."""
    return schedule.log_snr(t).clamp(max=80).exp()


def uniform(schedule: Schedule, t: Time) -> Time:
    """w = 1: the mean squared error of x_0."""
    return torch.ones_like(snr_at(schedule, t))


def simple(schedule: Schedule, t: Time) -> Time:
    r"""w = SNR: the mean squared error of the noise.

    Source: Ho et al. 2020, arXiv:2006.11239, eq. 14; as "SNR weighting" in Salimans, Ho 2022, arXiv:2202.00512, eq. 9.
    """
    return snr_at(schedule, t)


def velocity(schedule: Schedule, t: Time) -> Time:
    r"""w = 1 + SNR: the mean squared error of v.

    Source: Salimans, Ho 2022, arXiv:2202.00512, section 4 ("SNR + 1").
    """
    return 1 + snr_at(schedule, t)


def flow(schedule: Schedule, t: Time) -> Time:
    r""":math:`w = ((\alpha_t + \sigma_t) / \sigma_t)^2`: the mean squared error of the flow's velocity.

    Source: Lipman et al. 2023, arXiv:2210.02747, eq. 23.
    """
    return (1 + snr_at(schedule, t).sqrt()) ** 2


def truncated_snr(schedule: Schedule, t: Time) -> Time:
    """w = max(SNR, 1).

    Source: Salimans, Ho 2022, arXiv:2202.00512, eq. 10.
    """
    return snr_at(schedule, t).clamp(min=1)


def min_snr(schedule: Schedule, t: Time, gamma: float = 5.0) -> Time:
    r""":math:`w = \min(\text{SNR}, \gamma)`.

    Source: Hang et al. 2023, arXiv:2303.09556, section 3.4.
    """
    return snr_at(schedule, t).clamp(max=gamma)


def soft_min_snr(schedule: Schedule, t: Time, gamma: float = 5.0) -> Time:
    r""":math:`w = \gamma\, \text{SNR} / (\text{SNR} + \gamma)`, a smooth minimum of the two.

    Source: Crowson et al. 2024, arXiv:2401.11605, eq. 4 (there with gamma = 4 for data of standard deviation 0.5).
    """
    snr = snr_at(schedule, t)
    return gamma * snr / (snr + gamma)


def p2(schedule: Schedule, t: Time, gamma: float = 1.0, k: float = 1.0) -> Time:
    r""":math:`w = \text{SNR} / (k + \text{SNR})^\gamma`: less for the details that nobody sees.

    Source: Choi et al. 2022, arXiv:2204.00227, eq. 8 (of the noise's error there).
    """
    snr = snr_at(schedule, t)
    return snr / (k + snr) ** gamma


def edm(schedule: Schedule, t: Time, sigma_data: float = 0.5) -> Time:
    r""":math:`w = (\tilde\sigma^2 + \sigma_d^2) / (\tilde\sigma \sigma_d)^2 = \text{SNR} + 1 / \sigma_d^2` with
    :math:`\tilde\sigma = \sigma / \alpha`: unit weight for the output of `parameterization=edm`.

    Source: Karras et al. 2022, arXiv:2206.00364, table 1.
    """
    if sigma_data <= 0:
        raise ValueError(f"weighting.sigma_data is above 0, not {sigma_data}")
    return snr_at(schedule, t) + 1 / sigma_data**2


def sigmoid(schedule: Schedule, t: Time, bias: float = 2.0) -> Time:
    r""":math:`w = \text{SNR} \cdot \operatorname{sigmoid}(b - \lambda_t)`: a sigmoid weight of the noise's error.

    Source: Kingma, Gao 2023, arXiv:2303.00848, section 5 and appendix; Hoogeboom et al. 2024, arXiv:2410.19324.
    """
    log_snr = schedule.log_snr(t)
    return snr_at(schedule, t) * torch.sigmoid(bias - log_snr)


def likelihood(schedule: Schedule, t: Time) -> Time:
    r""":math:`w = -\tfrac12\, d\,\text{SNR} / dt`: with `loss=mse` and t uniform, the diffusion term of the negative
    variational bound, in nats per dimension.

    Source: Kingma et al. 2021, arXiv:2107.00630, eq. 17; Song et al. 2021, arXiv:2101.09258, eq. 7.
    """
    # The limit, where a schedule ends without signal: there the factors are 0 and infinity.
    t = t.clamp(max=1 - 1e-6)
    return -snr_at(schedule, t) * schedule.log_snr_rate(t) / 2

r"""The terms of the variational bound of a discrete diffusion model.

.. math:: -\log p(x_0) \le \underbrace{KL(q(x_1 | x_0) \Vert p(x_1))}_\text{prior}
          + \sum_{k=2}^T \underbrace{E\, KL(q(x_s | x_t, x_0) \Vert p(x_s | x_t))}_{t = k/T,\ s = (k-1)/T}
          \underbrace{- E \log p(x_0 | x_{1/T})}_\text{decoder}

Each term is a mean over the elements of a sample, in nats.

Source: Ho et al. 2020, arXiv:2006.11239, eq. 5; Nichol, Dhariwal 2021, arXiv:2102.09672, eq. 3 to 7.
"""

import math

import torch
from torch import Tensor

from src.diffusion.conditions import Cond
from src.diffusion.denoiser import Denoiser, Prediction
from src.diffusion.parameterizations import posterior_coefficients
from src.diffusion.schedules import Schedule, Time, expand_like
from src.diffusion.variances import log_variance_bounds


def normal_kl(mean_1: Tensor, log_var_1: Tensor, mean_2: Tensor, log_var_2: Tensor) -> Tensor:
    """KL(N_1 || N_2) of each element."""
    return 0.5 * (
        log_var_2 - log_var_1 - 1 + torch.exp(log_var_1 - log_var_2) + (mean_1 - mean_2) ** 2 * (-log_var_2).exp()
    )


def prior_kl(schedule: Schedule, x_0: Tensor) -> Tensor:
    r""":math:`KL(q(x_1 | x_0) \Vert N(0, \sigma_1^2))`, (B,)."""
    alpha, sigma = schedule.alpha_sigma(torch.tensor(1.0, dtype=torch.float64))
    return (alpha * x_0 / sigma).square().flatten(1).mean(1) / 2


def decoder_nll(x_0: Tensor, mean: Tensor, log_var: Tensor, num_levels: int | None) -> Tensor:
    r""":math:`-\log p(x_0 | x_{1/T})` of each element.

    Args:
        x_0: data.
        mean, log_var: parameters of the normal distribution of the last step.
        num_levels: number of values in [-1, 1] of discrete data (256 for images): the probability of the interval
            around the value, infinite at both ends. None for the density of continuous data.

    Source: Ho et al. 2020, arXiv:2006.11239, eq. 13.
    """
    scale = (-0.5 * log_var).exp()
    z = (x_0 - mean) * scale
    if num_levels is None:
        return 0.5 * (z.square() + log_var + math.log(2 * math.pi))
    half = scale / (num_levels - 1)
    # The left tail, where log and cdf keep their precision, stands in for the right one.
    upper, lower = torch.special.log_ndtr(half - z.abs()), torch.special.log_ndtr(-half - z.abs())
    inside = upper + torch.log(-torch.expm1((lower - upper).clamp(max=-1e-12)))
    edge = 1 - 1 / (num_levels - 1)
    below, above = torch.special.log_ndtr(z + half), torch.special.log_ndtr(half - z)
    return -torch.where(x_0 < -edge, below, torch.where(x_0 > edge, above, inside))


def vlb_term(
    denoiser: Denoiser, x_0: Tensor, x_t: Tensor, s: Time, t: Time, prediction: Prediction, num_levels: int | None
) -> Tensor:
    """The term (B,) of the step from t to s: a KL divergence, or the decoder term where s = 0.

    Args:
        denoiser: its schedule and variance define the step.
        x_0, x_t: data and noisy data, (B, C, *S).
        s, t: times (B,).
        prediction: prediction of the denoiser at x_t.
        num_levels: as in `decoder_nll`.
    """
    schedule = denoiser.schedule
    of_x_t, of_x_0 = (expand_like(v, x_0) for v in posterior_coefficients(schedule, s, t))
    true_log_var = expand_like(log_variance_bounds(schedule, s, t)[0], x_0)
    log_var = denoiser.variance.log_variance(schedule, s, t, x_0, prediction.variance).expand_as(x_0)
    mean, true_mean = of_x_t * x_t + of_x_0 * prediction.x_0, of_x_t * x_t + of_x_0 * x_0
    kl = normal_kl(true_mean, true_log_var, mean, log_var)
    return (
        torch.where(expand_like((s > 0), kl).bool(), kl, decoder_nll(x_0, mean, log_var, num_levels)).flatten(1).mean(1)
    )


@torch.no_grad()
def vlb_terms(
    denoiser: Denoiser, x_0: Tensor, steps: int, noise: torch.Generator, cond: Cond | None = None,
    num_levels: int | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    r"""All terms of the bound with T = steps, in bits per dimension, from one draw of x_t for each.

    Args:
        denoiser: in evaluation mode.
        x_0: (B, C, *S).
        steps: T.
        noise: generator of x_t, on the device of `x_0`.
        cond: conditions (B,) or None.
        num_levels: number of values of discrete data, or None; see `decoder_nll`.

    Returns:
        prior (B,); kl (B, T), with t = k / T in column k - 1 and the decoder term in the first; total (B,), their sum.
    """
    terms = []
    for k in range(1, steps + 1):
        t = torch.full((len(x_0),), k / steps, dtype=torch.float64)
        s = torch.full_like(t, (k - 1) / steps)
        z = torch.randn(x_0.shape, generator=noise, device=x_0.device, dtype=x_0.dtype)
        x_t = denoiser.schedule.add_noise(x_0, t, z)
        terms.append(vlb_term(denoiser, x_0, x_t, s, t, denoiser(x_t, t, cond), num_levels))
    kl = torch.stack(terms, 1) / math.log(2)
    prior = prior_kl(denoiser.schedule, x_0) / math.log(2)
    return {"prior": prior, "kl": kl, "total": prior + kl.sum(1)}

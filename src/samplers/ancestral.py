"""Ancestral samplers, which invert the transitions of the forward process."""

import math
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Interval

from src.diffusion.schedules import posterior_weights
from src.diffusion.variances import FixedSmallVariance, Variance
from src.samplers.base import Sampler, transition


@dataclass
class DDPM(Sampler):
    r"""Ancestral sampling from the posterior of the forward process, for any time grid.

    .. math:: x_s = \frac{\alpha_{t|s} \sigma_s^2}{\sigma_t^2} x_t
                  + \frac{\alpha_s \sigma_{t|s}^2}{\sigma_t^2} \hat x_0 + \sqrt{v}\, z

    Args:
        variance: v, between those of the step back given x_0 and of the step forward.

    Source: Ho et al. 2020, arXiv:2006.11239, eq. 6 and 7; at other spacings with a learned variance Nichol, Dhariwal
    2021, arXiv:2102.09672, section 4.
    """

    variance: Variance = field(default_factory=FixedSmallVariance)

    def step(self, denoise, x_t, t, s, noise):
        x_0 = denoise(x_t, t)
        alpha_ts, sigma_ts = transition(s, t)
        a, b = posterior_weights(s.alpha, s.sigma, t.sigma, alpha_ts, sigma_ts)
        mean = a * x_t + b * x_0
        if s.t == 0:
            return mean
        small, large = 2 * math.log(s.sigma * sigma_ts / t.sigma), 2 * math.log(sigma_ts)
        bounds = torch.tensor([small, large], dtype=torch.float64).unbind()
        log_variance = self.variance.log_variance_between(*bounds, denoise.last.variance)
        return mean + (0.5 * log_variance).exp() * noise(x_t)


@dataclass
class DDIM(Sampler):
    r"""Denoising diffusion implicit models, from deterministic (eta = 0) to ancestral (eta = 1).

    .. math:: x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - \tau^2}\, \hat\epsilon + \tau z, \quad
              \tau = \eta\, \sigma_s \sigma_{t|s} / \sigma_t, \quad \hat\epsilon = (x_t - \alpha_t \hat x_0) / \sigma_t

    Args:
        eta: share of the ancestral noise, in [0, 1].
        clip_eps: True to take the noise from the clipped prediction; False from the unclipped one, as diffusers does.

    Source: Song, Meng, Ermon 2021, arXiv:2010.02502, eq. 12 and 16.
    """

    eta: Annotated[float, Interval(ge=0, le=1)] = 0.0
    clip_eps: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise ValueError(f"sampler.eta must be in [0, 1], got {self.eta}")

    def step(self, denoise, x_t, t, s, noise):
        x_0 = denoise(x_t, t)
        _, sigma_ts = transition(s, t)
        tau = self.eta * s.sigma * sigma_ts / t.sigma
        # Rounding may put tau above sigma_s where all of the noise is new.
        eps = t.eps(x_t, x_0 if self.clip_eps else denoise.last.x_0)
        x_s = s.alpha * x_0 + math.sqrt(max(s.sigma**2 - tau**2, 0.0)) * eps
        return x_s + tau * noise(x_t) if tau > 0 else x_s

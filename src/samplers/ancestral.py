"""Samplers that walk back through the forward process's own transitions."""

from src.diffusion.schedules import Schedule
from src.samplers.base import Sampler


class DDPM(Sampler):
    r"""Ancestral sampling from the posterior of the forward process, at any spacing of the steps.

    .. math:: x_s = \frac{\alpha_{t|s} \sigma_s^2}{\sigma_t^2} x_t
                  + \frac{\alpha_s \sigma_{t|s}^2}{\sigma_t^2} \hat x_0
                  + \frac{\sigma_s \sigma_{t|s}}{\sigma_t} z

    Source: Ho et al. 2020, arXiv:2006.11239, eq. 6 and 7, with the smaller of the two variances.
    """

    def step(self, denoise, x_t, t, s, noise):
        x_0 = denoise(x_t, t)
        _, sigma_t = self.schedule.alpha_sigma(t)
        alpha_s, sigma_s = self.schedule.alpha_sigma(s)
        alpha_ts, sigma_ts = self.schedule.transition(s, t)
        mean = alpha_ts * (sigma_s / sigma_t) ** 2 * x_t + alpha_s * (sigma_ts / sigma_t) ** 2 * x_0
        return mean + sigma_s * sigma_ts / sigma_t * noise(x_t) if s > 0 else mean


class DDIM(Sampler):
    r"""Denoising diffusion implicit models, from deterministic (eta = 0) to ancestral (eta = 1).

    .. math:: x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - \tau^2}\, \hat\epsilon + \tau z, \quad
              \tau = \eta\, \sigma_s \sigma_{t|s} / \sigma_t, \quad \hat\epsilon = (x_t - \alpha_t \hat x_0) / \sigma_t

    Args:
        eta: share of the ancestral noise, in [0, 1].

    Source: Song, Meng, Ermon 2021, arXiv:2010.02502, eq. 12 and 16.
    """

    def __init__(self, schedule: Schedule, steps: int = 50, eta: float = 0.0, clip: float | None = None):
        super().__init__(schedule, steps, clip)
        if not 0 <= eta <= 1:
            raise ValueError(f"sampler.eta lies in [0, 1], not {eta}")
        self.eta = eta

    def step(self, denoise, x_t, t, s, noise):
        x_0 = denoise(x_t, t)
        alpha_t, sigma_t = self.schedule.alpha_sigma(t)
        alpha_s, sigma_s = self.schedule.alpha_sigma(s)
        _, sigma_ts = self.schedule.transition(s, t)
        tau = self.eta * sigma_s * sigma_ts / sigma_t
        eps = (x_t - alpha_t * x_0) / sigma_t
        x_s = alpha_s * x_0 + (sigma_s**2 - tau**2).sqrt() * eps
        return x_s + tau * noise(x_t) if tau > 0 else x_s

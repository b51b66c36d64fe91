"""Samplers of the reverse-time SDE, and Langevin dynamics."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from src.samplers.ancestral import DDPM
from src.samplers.base import DenoiserMemory, Noise, NoiseLevel, Sampler
from src.samplers.multistep import check_eta, exponential_step


@dataclass
class EulerMaruyama(Sampler):
    r"""Euler-Maruyama discretization of the reverse-time SDE.

    .. math:: x_s = x_t - \left(f x_t - g^2 \nabla \log p(x_t)\right) (t - s) + g \sqrt{t - s}\, z

    with f and g at t; the last step is without noise. It needs hundreds of steps and `time_grid=uniform`, since steps
    must be short at t = 1, where the rates are high.

    Source: Song et al. 2021, arXiv:2011.13456, eq. 6 and appendix D.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        alpha, _ = self.schedule.alpha_sigma(torch.ones((), dtype=torch.float64))
        if alpha == 0:
            raise ValueError(
                "euler_maruyama needs a finite drift, but on this schedule the signal is 0 at t = 1; use sampler=ddpm "
                "or dpmpp_2m_sde"
            )
        self._rates: dict[float, tuple[float, float]] = {}

    def step(self, denoise, x_t, t, s, noise):
        drift, diffusion = self.rates(t)
        width = float(t.t - s.t)
        score_term = width * diffusion / t.sigma**2  # of the score, (alpha x_0 - x_t) / sigma^2
        mean = (1 - width * drift - score_term) * x_t + score_term * t.alpha * denoise(x_t, t)
        return mean + math.sqrt(diffusion * width) * noise(x_t) if s.t > 0 else mean

    def noise_levels(self, times: Tensor) -> list[NoiseLevel]:
        self.add_rates(times)
        return super().noise_levels(times)

    def rates(self, t: NoiseLevel) -> tuple[float, float]:
        """f and g² at a noise level."""
        if float(t.t) not in self._rates:
            self.add_rates(t.t[None])
        return self._rates[float(t.t)]

    def add_rates(self, times: Tensor) -> None:
        """Compute and store the rates at times (K,)."""
        drift, diffusion = self.schedule.drift_diffusion(times)
        self._rates |= zip(times.tolist(), zip(drift.tolist(), diffusion.tolist(), strict=True), strict=True)


@dataclass
class DPMppSDE(Sampler):
    r"""DPM-Solver++ (2S) on the reverse SDE: x_s is drawn with the data predicted halfway to s in log-SNR.

    The noise of both halves, z and z' in

    .. math:: z_m = z, \quad z_s = c z + \sqrt{1 - c^2} z', \quad c = (1 + e^{\eta h})^{-1/2},

    is one Brownian path, as the exact solution of the linear part has it; k-diffusion draws it from a path over sigma.
    Two evaluations a step; one in the last, and from pure noise.

    Args:
        eta: amount of noise; 0 is `dpmpp_2s`, 1 the reverse SDE.

    Source: Crowson, k-diffusion, `sample_dpmpp_sde`; Lu et al. 2022, arXiv:2211.01095, algorithm 1 with r = 1/2.
    """

    eta: Annotated[float, Ge(0)] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_eta(self.eta)

    def step(self, denoise, x_t, t, s, noise):
        data = denoise(x_t, t)
        h = s.half_log_snr - t.half_log_snr
        if math.isinf(h):
            return exponential_step(x_t, data, t, s, self.eta, noise)
        middle, z = self.level_at(t.half_log_snr + h / 2), noise(x_t)
        data = denoise(exponential_step(x_t, data, t, middle, self.eta, lambda _: z), middle)
        c_2 = 1 / (1 + math.exp(self.eta * h))
        z = math.sqrt(c_2) * z + math.sqrt(1 - c_2) * noise(x_t)
        return exponential_step(x_t, data, t, s, self.eta, lambda _: z)


@dataclass
class PredictorCorrector(DDPM):
    r"""Ancestral predictor, each step followed by Langevin correctors of a given signal-to-noise ratio.

    .. math:: x \leftarrow x + \epsilon g + \sqrt{2 \epsilon}\, z, \quad g = \nabla \log p(x), \quad
              \epsilon = 2 \left(r \|z\|_2 / \|g\|_2\right)^2

    The norms are those of each sample (in the code of the paper, means over the batch). On variance-preserving
    schedules the paper multiplies epsilon by :math:`1 - \beta_i`, which tends to 1 for many steps and is left out.
    Use it for images and signals: samples of few elements may have a score near 0, and hence a very large step; use
    :class:`PredictorCorrectorALD` for them.

    Args:
        corrector_steps: Langevin steps after each predictor step.
        snr: r.

    Source: Song et al. 2021, arXiv:2011.13456, algorithms 2 to 5.
    """

    corrector_steps: Annotated[int, Ge(0)] = 1
    snr: Annotated[float, Gt(0)] = 0.16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.corrector_steps < 0 or self.snr <= 0:
            raise ValueError(
                "sampler.corrector_steps must be >= 0 and sampler.snr must be > 0, "
                f"got {self.corrector_steps} and {self.snr}"
            )

    def step(self, denoise, x_t, t, s, noise):
        x_s = super().step(denoise, x_t, t, s, noise)
        for _ in range(self.corrector_steps if s.t > 0 else 0):
            score_term, z = s.alpha * denoise(x_s, s) - x_s, noise(x_s)
            size = self.step_size(score_term / s.sigma, z)
            x_s = x_s + size / 2 * score_term + size**0.5 * s.sigma * z
        return x_s

    def step_size(self, score: Tensor, z: Tensor) -> Tensor | float:
        r""":math:`2 \epsilon / \sigma^2`, from `score`, the score times sigma, and the noise z, both (B, C, *S)."""
        norm, of_noise = (torch.linalg.vector_norm(v.flatten(1), dim=1) for v in (score, z))
        return (4 * (self.snr * of_noise / norm) ** 2).view(-1, *[1] * (z.ndim - 1))


@dataclass
class PredictorCorrectorALD(PredictorCorrector):
    r"""Ancestral predictor, each step followed by annealed Langevin correctors with :math:`\epsilon = 2 r^2 \sigma^2`.

    This is :class:`PredictorCorrector` with the ratio of norms of pure noise.

    Source: Song et al. 2021, arXiv:2011.13456, the corrector `ald` of its code; Song, Ermon 2019, arXiv:1907.05600.
    """

    def step_size(self, score, z):
        return 4 * self.snr**2


@dataclass
class AnnealedLangevin(Sampler):
    r"""Langevin dynamics at each noise level in turn, each started at the last sample of the previous level.

    The step is :math:`\eta = \text{step\_size} \cdot \sigma_t^2`. The last step, to t = 0, is a denoising step. Where
    :math:`\alpha > \sigma` the next level starts at :math:`(\alpha_s / \alpha_t)\, x`, which is x in the paper, where
    :math:`\alpha = 1`: small steps could not make up for a larger signal.

    Args:
        steps_per_level: Langevin steps at each noise level.
        step_size: :math:`\eta / \sigma_t^2`, which is :math:`\epsilon / \sigma_L^2` of algorithm 1, where
            :math:`\alpha_i = \epsilon \sigma_i^2 / \sigma_L^2`. The paper has 0.2 (2e-5 / 0.01^2). Its code, with
            the same `step_lr`, has :math:`x + \alpha_i s + \sqrt{2 \alpha_i} z`, which is 0.4 here.

    Source: Song, Ermon 2019, arXiv:1907.05600, algorithm 1; the denoising at the end: Jolicoeur-Martineau et al. 2021,
    arXiv:2009.05475.
    """

    steps_per_level: Annotated[int, Ge(1)] = 5
    step_size: Annotated[float, Interval(gt=0, lt=4)] = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps_per_level < 1 or not 0 < self.step_size < 4:
            raise ValueError(
                "sampler.steps_per_level must be >= 1 and sampler.step_size in (0, 4), since larger steps diverge; "
                f"got {self.steps_per_level} and {self.step_size}"
            )

    def step(self, denoise, x_t, t, s, noise):
        for _ in range(self.steps_per_level):
            x_t = langevin_step(denoise, x_t, t, self.step_size, noise)
        if s.t == 0:
            return denoise(x_t, t)
        return s.alpha / t.alpha * x_t if t.alpha > t.sigma else x_t


def langevin_step(denoise: DenoiserMemory, x: Tensor, level: NoiseLevel, step_size: float, noise: Noise) -> Tensor:
    r"""One step of Langevin dynamics at a noise level.

    .. math:: x \leftarrow x + \tfrac{\eta}{2} \nabla \log p(x) + \sqrt{\eta}\, z, \quad
              \eta = \text{step\_size} \cdot \sigma^2, \quad \nabla \log p(x) = (\alpha \hat x_0 - x) / \sigma^2
    """
    score_term = level.alpha * denoise(x, level) - x
    return x + step_size / 2 * score_term + math.sqrt(step_size) * level.sigma * noise(x)

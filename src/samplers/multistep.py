r"""Multistep solvers, which extrapolate the predictions of earlier steps: one evaluation per step.

Most solve the ODE in :math:`\ell = \log(\alpha / \sigma)`, where its linear part has an exact solution; h is the
increase of l in a step. The step to clean data has infinite h and is of first order.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from src.samplers.base import DenoiserMemory, NoiseLevel, Sampler, ddim_step


@dataclass
class DPMpp2M(Sampler):
    r"""DPM-Solver++ (2M), second order, as an ODE (eta = 0) or SDE (eta = 1).

    .. math:: x_s = \frac{\sigma_s}{\sigma_t} e^{-\eta h} x_t
                  + \alpha_s (1 - e^{-(1 + \eta) h}) \left(\hat x_0 + \tfrac{h}{2 h'} (\hat x_0 - \hat x_0')\right)
                  + \sigma_s \sqrt{1 - e^{-2 \eta h}}\, z

    where primes denote the previous step.

    Args:
        eta: amount of noise; 0 for the ODE, 1 for the reverse SDE.

    Source: Lu et al. 2022, arXiv:2211.01095, algorithm 2 and eq. 18; with noise the code of its authors and of
    k-diffusion.
    """

    eta: Annotated[float, Ge(0)] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_eta(self.eta)

    def step(self, denoise, x_t, t, s, noise):
        data = denoise(x_t, t)
        h = s.half_log_snr - t.half_log_snr
        if math.isfinite(h) and len(denoise.history) > 1:
            (before, earlier), (now, _) = list(denoise.history)[-2:]
            data = data + h / (2 * (now.half_log_snr - before.half_log_snr)) * (data - earlier)
        return exponential_step(x_t, data, t, s, self.eta, noise)


@dataclass
class DPMpp2MSDE(DPMpp2M):
    """:class:`DPMpp2M` on the reverse SDE: eta = 1."""

    eta: Annotated[float, Ge(0)] = 1.0


@dataclass
class DPMpp3MSDE(Sampler):
    r"""DPM-Solver++ (3M), a parabola through the last three predictions, as an ODE (eta = 0) or SDE (eta = 1).

    .. math:: x_s = \frac{\sigma_s}{\sigma_t} e^{-\eta h} x_t + \alpha_s \left((1 - e^{-k}) \hat x_0
              + \varphi_2 d_1 - \varphi_3 d_2\right) + \sigma_s \sqrt{1 - e^{-2 \eta h}}\, z,
              \quad k = (1 + \eta) h, \quad \varphi_2 = \tfrac{e^{-k} - 1}{k} + 1, \quad
              \varphi_3 = \tfrac{\varphi_2}{k} - \tfrac12

    where :math:`d_1` and :math:`d_2` are the first and second differences of the parabola over a step. As published,
    :math:`d_2` has half the weight that would integrate the parabola exactly, so with eta = 0 the order is 2, as for
    2M, with a smaller error.

    Source: Lu et al. 2022, arXiv:2211.01095, appendix; Crowson, k-diffusion, `sample_dpmpp_3m_sde`.
    """

    eta: Annotated[float, Ge(0)] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_eta(self.eta)

    def step(self, denoise, x_t, t, s, noise):
        x_0 = denoise(x_t, t)
        h = s.half_log_snr - t.half_log_snr
        x_s = exponential_step(x_t, x_0, t, s, self.eta, noise)
        if math.isinf(h) or len(denoise.history) < 2:
            return x_s
        k = (1 + self.eta) * h
        phi_2 = math.expm1(-k) / k + 1
        newest_first = list(denoise.history)[:-4:-1]
        # Divided differences of the predictions over l, in units of h.
        widths = [(a[0].half_log_snr - b[0].half_log_snr) / h for a, b in pairwise(newest_first)]
        slopes = [(a[1] - b[1]) / w for (a, b), w in zip(pairwise(newest_first), widths, strict=True)]
        if len(slopes) == 1:
            return x_s + s.alpha * phi_2 * slopes[0]
        bend = (slopes[0] - slopes[1]) / (widths[0] + widths[1])
        return x_s + s.alpha * (phi_2 * (slopes[0] + bend * widths[0]) - (phi_2 / k - 0.5) * bend)


@dataclass
class UniPC(Sampler):
    r"""Predictor and corrector that share their evaluations.

    Both are :math:`x_s = \frac{\sigma_s}{\sigma_t} x_t + \alpha_s (1 - e^{-h}) \hat x_0 + \alpha_s (1 - e^{-h})
    \sum_i \rho_i D_i / r_i`, with D_i the differences of earlier predictions (for the corrector also the next one)
    from the current one, r_i their distances in l over h, and :math:`\rho` such that polynomials are integrated
    exactly. A step is corrected in the next one, with its evaluation.

    Args:
        order: order of the predictor, 1 to 3. The order of convergence is one higher (with 3 only while the error of
            the first steps, of order 3, is negligible).
        lower_order_final: limit the order to the number of steps left, since the last steps are often the longest in l
            and would extrapolate far.

    Source: Zhao et al. 2023, arXiv:2302.04867, algorithms 5 and 6 with B(h) = e^h - 1 (B_2).
    """

    order: Annotated[int, Interval(ge=1, le=3)] = 2
    lower_order_final: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.order <= 3:
            raise ValueError(f"sampler.order of unipc must be 1, 2 or 3, got {self.order}")

    def step(self, denoise, x_t, t, s, noise):
        known = list(denoise.history)
        x_0 = denoise(x_t, t)
        if known and "corrected" in denoise.memory:
            corrected, order = denoise.memory["corrected"]
            x_t = self.update(corrected, known[-order:], known[-1][0], t, x_0)
        order = min(self.order, denoise.steps_left) if self.lower_order_final else self.order
        denoise.memory["corrected"] = x_t, order
        points = list(denoise.history)[-order:]
        if math.isinf(s.half_log_snr - t.half_log_snr):
            return ddim_step(x_t, x_0, t, s)
        return self.update(x_t, points, t, s, None)

    def update(
        self, x_t: Tensor, points: list[tuple[NoiseLevel, Tensor]], t: NoiseLevel, s: NoiseLevel, coming: Tensor | None
    ) -> Tensor:
        """Step from t to s with the predictions at `points`, the last at t, and for the corrector the one at s."""
        h = s.half_log_snr - t.half_log_snr
        x_0 = points[-1][1]
        at = [(level.half_log_snr - t.half_log_snr) / h for level, _ in points[:-1]]
        differences = [x - x_0 for _, x in points[:-1]]
        if coming is not None:
            at, differences = [*at, 1.0], [*differences, coming - x_0]
        x_s = ddim_step(x_t, x_0, t, s)
        if not at:
            return x_s
        rho = unipc_weights(at, h) if len(at) > 1 else [0.5]
        gain = -s.alpha * math.expm1(-h)
        return x_s + gain * sum(p / r * d for p, r, d in zip(rho, at, differences, strict=True))


def unipc_weights(at: list[float], h: float) -> list[float]:
    r"""rho with :math:`\sum_i \rho_i r_i^{k-1} = k!\, \phi_k(-h) / B` for k = 1 .. n."""
    phi, factorial, right = math.expm1(-h) / -h - 1, 1, []
    for k in range(1, len(at) + 1):
        right.append(phi * factorial / math.expm1(-h))
        factorial *= k + 1
        phi = phi / -h - 1 / factorial
    r = torch.tensor(at, dtype=torch.float64)
    powers = torch.stack([r**k for k in range(len(at))])
    return torch.linalg.solve(powers, torch.tensor(right, dtype=torch.float64)).tolist()


@dataclass
class AdamsBashforth(Sampler):
    r"""The linear multistep method of Adams and Bashforth, in the angle :math:`\arctan(\sigma / \alpha)`.

    With :math:`\varphi = \arctan(\sigma / \alpha)` and :math:`y = x / \sqrt{\alpha^2 + \sigma^2}` the ODE is
    :math:`dy / d\varphi = v`, bounded from pure noise to clean data. A polynomial through the last `order` values of v
    is integrated, which converges with that order; the first steps are Heun's, with order 4 those of Runge and Kutta.

    Args:
        order: number of values, from 1 to 4.

    Source: Liu et al. 2022 (PNDM), arXiv:2202.09778, section 3.2; Salimans, Ho 2022, arXiv:2202.00512, appendix D.
    """

    order: Annotated[int, Interval(ge=1, le=4)] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.order <= 4:
            raise ValueError(f"sampler.order of adams_bashforth must be 1, 2, 3 or 4, got {self.order}")

    def step(self, denoise, x_t, t, s, noise):
        y, v = self.on_circle(denoise, x_t, t)
        slopes = [*denoise.memory.get("slopes", []), (angle(t), v)][-self.order :]
        denoise.memory["slopes"] = slopes
        width = angle(s) - angle(t)
        y_s = y + width * sum(w * v for w, (_, v) in zip(adams_weights(slopes, width), slopes, strict=True))
        if len(slopes) < self.order and s.sigma > 0:
            if self.order == 4:
                return math.hypot(s.alpha, s.sigma) * self.runge_kutta(denoise, y, v, t, s)
            _, v_s = self.on_circle(denoise, math.hypot(s.alpha, s.sigma) * (y + width * v), s)
            y_s = y + width / 2 * (v + v_s)
        return math.hypot(s.alpha, s.sigma) * y_s

    def runge_kutta(self, denoise: DenoiserMemory, y: Tensor, v: Tensor, t: NoiseLevel, s: NoiseLevel) -> Tensor:
        """A step of the classical method of fourth order, from y and v at t to y at s."""
        middle = self.level_at(-math.log(math.tan((angle(t) + angle(s)) / 2)))
        width, total = angle(s) - angle(t), v
        for level, share, weight in (middle, 0.5, 2), (middle, 0.5, 2), (s, 1, 1):
            _, v = self.on_circle(denoise, math.hypot(level.alpha, level.sigma) * (y + share * width * v), level)
            total = total + weight * v
        return y + width / 6 * total

    def on_circle(self, denoise: DenoiserMemory, x_t: Tensor, t: NoiseLevel) -> tuple[Tensor, Tensor]:
        """y and v at a noise level."""
        radius = math.hypot(t.alpha, t.sigma)
        x_0 = denoise(x_t, t)
        return x_t / radius, (t.alpha * t.eps(x_t, x_0) - t.sigma * x_0) / radius


def angle(level: NoiseLevel) -> float:
    r""":math:`\arctan(\sigma / \alpha)`."""
    return math.atan2(level.sigma, level.alpha)


def adams_weights(slopes: list[tuple[float, Tensor]], width: float) -> list[float]:
    """Weights of the slopes with which a polynomial through them is integrated exactly over one step."""
    u = torch.tensor([(phi - slopes[-1][0]) / width for phi, _ in slopes], dtype=torch.float64)
    powers = torch.stack([u**k for k in range(len(u))])
    return torch.linalg.solve(powers, 1 / torch.arange(1.0, len(u) + 1, dtype=torch.float64)).tolist()


def exponential_step(x_t: Tensor, data: Tensor, t: NoiseLevel, s: NoiseLevel, eta: float, noise) -> Tensor:  # type: ignore[no-untyped-def]
    """Step from x_t to x_s with constant predicted data and eta times the noise of the reverse SDE."""
    if eta == 0:
        return ddim_step(x_t, data, t, s)
    h = s.half_log_snr - t.half_log_snr
    kept = s.sigma / t.sigma * math.exp(-eta * h)
    x_s = kept * x_t + s.alpha * -math.expm1(-(1 + eta) * h) * data
    return x_s + s.sigma * math.sqrt(-math.expm1(-2 * eta * h)) * noise(x_t) if s.sigma > 0 else x_s


def check_eta(eta: float) -> None:
    if eta < 0:
        raise ValueError(f"sampler.eta must be >= 0, got {eta}")

r"""Guidance by a linear measurement :math:`y = A x_0 + s z`: samples of :math:`p(x_0 | y)`.

All use one approximation, exact for Gaussian data of standard deviation `sigma_data` in every direction:

.. math:: x_0 | x_t \sim N(\hat x_0, r_t^2 I), \quad
          r_t^2 = \frac{\sigma_t^2 \sigma_\text{data}^2}{\alpha_t^2 \sigma_\text{data}^2 + \sigma_t^2}

Each object serves one batch of measurements y, (B, ...); the noise s is in the units of the model.
"""

from abc import ABC, abstractmethod
from typing import Annotated

from annotated_types import Ge, Gt
from torch import Tensor

from src.diffusion.conditions import Cond, map_cond
from src.diffusion.denoiser import Prediction
from src.diffusion.guidance import DenoiseFn, gradient_gain, log_prob_gradient
from src.diffusion.operators import LinearOperator
from src.diffusion.schedules import Schedule, Time, expand_like


class DDNM:
    r"""Project :math:`\hat x_0` onto the data that agree with the measurement, keeping its null-space component.

    .. math:: \hat x_0 \mathrel{+}= A^T (A A^T + (s / r_t)^2 I)^{-1} (y - A \hat x_0)

    Without noise this is :math:`\hat x_0 + A^+ (y - A \hat x_0)`, so that A x = y; with noise it is the mean of
    :math:`x_0 | x_t, y`, a partial correction that decreases with :math:`r_t`. (The rule of DDNM+ depends on the noise
    of a DDIM step instead.) No evaluations or gradients of the network are added.

    Args:
        operator: A.
        y: measurement.
        noise: s.
        sigma_data: standard deviation of the data; not used if s = 0.

    Source: Wang et al. 2022, arXiv:2212.00490, eq. 13, and 17 to 19 for DDNM+; with noise it is the type II guidance of
    Peng et al. 2024, arXiv:2402.02149.
    """

    def __init__(
        self,
        operator: LinearOperator,
        y: Tensor,
        noise: Annotated[float, Ge(0)] = 0.0,
        sigma_data: Annotated[float, Gt(0)] = 0.5,
    ):
        self.operator, self.y, self.noise, self.sigma_data = operator, y, noise, sigma_data

    def __call__(self, denoise: DenoiseFn, schedule: Schedule) -> DenoiseFn:
        def guided(x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
            prediction = denoise(x_t, t, cond)
            residual = self.y - self.operator(prediction.x_0)
            ridge = self.noise**2 / posterior_variance(schedule, t, self.sigma_data)
            solved = self.operator.solve(residual, expand_like(ridge, residual))
            return prediction._replace(x_0=prediction.x_0 + self.operator.transpose(solved))

        return guided


class LikelihoodGuidance(ABC):
    r"""Add the gradient of the log-likelihood of the measurement, taken through the network. A new one is `log_prob`.

    .. math:: \nabla \log p(x_t | y) = \nabla \log p(x_t) + \nabla \log p(y | x_t), \quad \text{that is} \quad
              \hat x_0 \mathrel{+}= \frac{\sigma_t^2}{\alpha_t} \nabla_{x_t} \log p(y | \hat x_0(x_t))

    Without signal x_t is independent of y, and nothing is added. A step takes two to three times the time of an
    evaluation, and the memory of a training step.

    Args:
        operator: A.
        y: measurement.
        noise: s.
        scale: factor of the gradient.
    """

    def __init__(self, operator: LinearOperator, y: Tensor, noise: float = 0.0, scale: float = 1.0):
        self.operator, self.y, self.noise, self.scale = operator, y, noise, scale

    @abstractmethod
    def log_prob(self, residual: Tensor, schedule: Schedule, t: Time) -> Tensor:
        r""":math:`\log p(y | \hat x_0)` (B,) up to a constant, from the residual :math:`y - A \hat x_0`."""

    def __call__(self, denoise: DenoiseFn, schedule: Schedule) -> DenoiseFn:
        def guided(x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
            def log_prob(x: Tensor) -> tuple[Tensor, Prediction]:
                prediction = denoise(x, t.clone(), map_cond(Tensor.clone, cond))
                return self.log_prob(self.y - self.operator(prediction.x_0), schedule, t), prediction

            gain = gradient_gain(schedule, t, self.scale)
            if gain is None:
                return denoise(x_t, t, cond)
            gradient, (x_0, variance) = log_prob_gradient(log_prob, x_t)
            guided_x_0 = x_0.detach() + expand_like(gain, x_t) * gradient
            return Prediction(guided_x_0, None if variance is None else variance.detach())

        return guided


class PiGDM(LikelihoodGuidance):
    r"""Pseudoinverse guidance: the likelihood of y under :math:`N(\hat x_0, r_t^2 I)`.

    .. math:: \nabla \log p(y | x_t) = \left(\frac{\partial \hat x_0}{\partial x_t}\right)^T A^T
              (r_t^2 A A^T + s^2 I)^{-1} (y - A \hat x_0)

    Args:
        operator: A.
        y: measurement.
        noise: s.
        scale: factor of the gradient; 1 for the posterior.
        sigma_data: standard deviation of the data.

    Source: Song et al. 2023, Pseudoinverse-guided diffusion models for inverse problems (ICLR), section 3.
    """

    def __init__(
        self,
        operator: LinearOperator,
        y: Tensor,
        noise: Annotated[float, Ge(0)] = 0.0,
        scale: Annotated[float, Ge(0)] = 1.0,
        sigma_data: Annotated[float, Gt(0)] = 0.5,
    ):
        super().__init__(operator, y, noise, scale)
        self.sigma_data = sigma_data

    def log_prob(self, residual, schedule, t):
        variance = expand_like(posterior_variance(schedule, t, self.sigma_data), residual)
        solved = self.operator.solve(residual, self.noise**2 / variance) / variance
        return -(residual * solved).flatten(1).sum(1) / 2


class DPS(LikelihoodGuidance):
    r"""Diffusion posterior sampling: the gradient of the norm of the residual.

    .. math:: \nabla \log p(y | x_t) = -\zeta \nabla_{x_t} \|y - A \hat x_0\|^2, \quad
              \zeta = \text{scale} / \|y - A \hat x_0\|

    The paper adds the same multiple of the gradient to x after each of its 1,000 steps. Here it is added to the score,
    so that the total does not depend on the number of steps or the sampler. On a variance-preserving schedule a step of
    DDPM equals that of the paper with

    .. math:: \zeta' = \text{scale} \cdot \beta / \sqrt{1 - \beta}, \quad \beta = \sigma_{t|s}^2

    which sum to 10 times the scale over 1,000 steps of the linear schedule. The code of the paper has the gradient of
    the norm, so its scale is :math:`2 \zeta'`. The noise of y is not used.

    Source: Chung et al. 2023, arXiv:2209.14687, eq. 16 and algorithm 1.
    """

    def log_prob(self, residual, schedule, t):
        return -2 * residual.flatten(1).norm(dim=1)


def posterior_variance(schedule: Schedule, t: Time, sigma_data: float) -> Tensor:
    r""":math:`r_t^2`, the variance of each element of x_0 given x_t, clamped to 1e-12 because it is a divisor."""
    alpha, sigma = schedule.alpha_sigma(t)
    return (sigma**2 * sigma_data**2 / (alpha**2 * sigma_data**2 + sigma**2)).clamp(min=1e-12).detach()

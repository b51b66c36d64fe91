r"""Consistency losses of a flow map: neighboring points of a trajectory have the same end.

With x_u on the trajectory of x_t a little further, s <= u < t, the mean of the step from t to s is that of the two
steps over u, of which the first is a step of DDIM with known data d:

.. math:: R = \frac{g}{t - u} \left(\bar x_0(x_t, t, s) - \frac{b\, d + c\, \bar x_0(x_u, u, s)}{b + c}\right)

with the weights of :func:`~src.diffusion.semigroup.joined_mean` and g of the Eulerian equation, which it becomes
as u approaches t. With s = 0, the end of the trajectory, b is 0 and the other point's prediction the target.
"""

from abc import abstractmethod
from typing import Annotated

import torch
from annotated_types import Ge, Gt

from src.diffusion.flow_map import coefficients, ddim_map
from src.diffusion.flow_map_losses import (
    FlowMapLoss,
    MeanFlow,
    Share,
    with_gradient_of,
)
from src.diffusion.losses import Weighting
from src.diffusion.schedules import Schedule, Time, expand_like
from src.diffusion.semigroup import joined_mean
from src.diffusion.teacher import Teacher


class Consistency(FlowMapLoss):
    """The base class of losses of two neighboring points. A new one implements `neighbor`.

    The network is compared with itself, so that the loss may rise while the map becomes better.
    """

    ranks_checkpoints, needs_data = False, True

    def residual(self, flow_map, segment):
        x_t, t, s, x_0, cond = segment
        predicted = flow_map(x_t, t, cond, s=s).x_0
        with torch.no_grad():
            u = torch.maximum(self.neighbor(flow_map.schedule, t), s)
            x_u = ddim_map(flow_map.schedule, x_t, x_0, t, u)
            end = flow_map(x_u, u, cond, s=s).x_0
            here = coefficients(flow_map.schedule, t, s)
            factor = expand_like(here.weight / here.speed / (t - u), x_t)
            residual = factor * (predicted - joined_mean(flow_map.schedule, t, u, s, x_0, end))
        return with_gradient_of(predicted, residual)

    @abstractmethod
    def neighbor(self, schedule: Schedule, t: Time) -> Time:
        """The time u < t, or anything below s for s."""


class ConsistencyTraining(Consistency):
    r"""Easy consistency training: the neighbor has the same noise, and comes closer in the course of the training.

    .. math:: u = t \left(1 - q^{-i}\, n\right)_+, \quad
              i = \min(\lfloor \text{step} / \text{stage\_steps} \rfloor, \text{stages}), \quad
              n = 1 + k \operatorname{sigmoid}(-b\, \sigma_t / \alpha_t)

    In the first stage u is 0 and the loss that of a denoiser, so that it may start from one (init_from=RUN).

    Args:
        weighting, off_diagonal, to_data, teacher, guidance_scale, adaptive_power: see `FlowMapLoss`; by default all
            samples are off the diagonal and taken to s = 0.
        q: ratio of the distances of two stages.
        stage_steps: number of training steps of each stage.
        stages: number of stages, after which the distance stays; in float32 differences of much closer neighbors are
            mostly rounding errors.
        k, b: how much larger the distance is at low noise levels.

    Source: Geng et al. 2024, arXiv:2406.14548, section 3; Song, Dhariwal 2023, arXiv:2310.14189.
    """

    def __init__(
        self,
        weighting: Weighting,
        off_diagonal: Share = 1.0,
        to_data: Share = 1.0,
        teacher: Teacher | None = None,
        guidance_scale: float = 1.0,
        adaptive_power: Annotated[float, Ge(0)] = 0.5,
        q: Annotated[float, Gt(1)] = 2.0,
        stage_steps: Annotated[int, Ge(1)] = 250,
        k: Annotated[float, Ge(0)] = 8.0,
        b: Annotated[float, Ge(0)] = 1.0,
        stages: Annotated[int, Ge(1)] = 10,
    ):
        super().__init__(weighting, off_diagonal, to_data, teacher, guidance_scale, adaptive_power)
        if q <= 1 or stage_steps < 1 or stages < 1:
            raise ValueError(
                f"loss.q must be > 1, loss.stage_steps and loss.stages >= 1, got {q}, {stage_steps} and {stages}"
            )
        if k < 0 or b < 0:
            raise ValueError(f"loss.k and loss.b must be >= 0, got {k} and {b}")
        self.q, self.stage_steps, self.k, self.b, self.stages = q, stage_steps, k, b, stages

    def neighbor(self, schedule, t):
        noise_ratio = (-schedule.log_snr(t) / 2).exp()
        distance = self.q ** -float(min(self.count_steps() // self.stage_steps, self.stages))
        return t * (1 - distance * (1 + self.k * torch.sigmoid(-self.b * noise_ratio)))


class ConsistencyDistillation(Consistency):
    """Consistency distillation: the neighbor is a step of DDIM with the teacher's prediction away.

    Args:
        weighting, teacher, off_diagonal, to_data, adaptive_power: see `FlowMapLoss`; by default all samples are off
            the diagonal and taken to s = 0. With to_data=0 it is the trajectory consistency of any s.
        steps: the neighbor is 1 / `steps` away.

    Source: Song et al. 2023, arXiv:2303.01469, eq. 7 and algorithm 2; any s: Kim et al. 2023, arXiv:2310.02279.
    """

    needs_teacher = True

    def __init__(
        self,
        weighting: Weighting,
        teacher: Teacher | None,
        off_diagonal: Share = 1.0,
        to_data: Share = 1.0,
        adaptive_power: Annotated[float, Ge(0)] = 0.5,
        steps: Annotated[int, Ge(1)] = 50,
    ):
        super().__init__(weighting, off_diagonal, to_data, teacher, adaptive_power=adaptive_power)
        if steps < 1:
            raise ValueError(f"loss.steps must be >= 1, got {steps}")
        self.steps = steps

    def neighbor(self, schedule, t):
        return t - 1 / self.steps


class ContinuousConsistency(MeanFlow):
    r"""Continuous-time consistency training: the Eulerian equation at s = 0, with a residual of one size.

    .. math:: R = (1 - r) \cos\theta\, (\bar x_0 - x_0) + r\, g\, \frac{d \bar x_0}{dt}, \quad
              \cos\theta = \frac{\alpha_t}{\sqrt{\alpha_t^2 + \sigma_t^2}}

    in the units of the network's output and times :math:`\cos\theta`, divided by its own root mean square plus `c`. r
    rises from 0 to 1 in the first `warmup_steps`, from denoising to consistency. The weighting is that of the diagonal.

    Args:
        weighting, off_diagonal, to_data, teacher, guidance_scale: see `FlowMapLoss`; by default all samples are off
            the diagonal and taken to s = 0.
        warmup_steps: number of training steps until r is 1.
        c: see above.

    Source: Lu, Song 2024, arXiv:2410.11081, eq. 6 and algorithm 1; there for :math:`\alpha = \cos t, \sigma = \sin t`,
    here on every schedule.
    """

    ranks_checkpoints = False

    def __init__(
        self,
        weighting: Weighting,
        off_diagonal: Share = 1.0,
        to_data: Share = 1.0,
        teacher: Teacher | None = None,
        guidance_scale: float = 1.0,
        warmup_steps: Annotated[int, Ge(0)] = 1000,
        c: Annotated[float, Gt(0)] = 0.1,
    ):
        super().__init__(weighting, off_diagonal, to_data, teacher, guidance_scale, 0.0, improved=False)
        if warmup_steps < 0 or c <= 0:
            raise ValueError(f"loss.warmup_steps must be >= 0 and loss.c > 0, got {warmup_steps} and {c}")
        self.warmup_steps, self.c = warmup_steps, c

    @torch.no_grad()
    def equation(self, flow_map, segment):
        x_t, t, s, x_0, cond = segment
        mean = flow_map(x_t, t, cond, s=s).x_0
        alpha, sigma = flow_map.schedule.alpha_sigma(t)
        cosine = alpha / (alpha**2 + sigma**2).sqrt()
        rise = min(1.0, self.count_steps() / self.warmup_steps) if self.warmup_steps else 1.0
        residual = torch.lerp(expand_like(cosine, x_t) * (mean - x_0), super().equation(flow_map, segment), rise)
        scale = flow_map.parameterization.preconditioning(flow_map.schedule, t).c_out.abs()
        residual = expand_like(cosine / scale, x_t) * residual
        size = residual.square().flatten(1).mean(1).sqrt().view(-1, *[1] * (x_t.ndim - 1))
        return residual / (size + self.c) / expand_like(self.weighting(flow_map.schedule, t).sqrt(), x_t)

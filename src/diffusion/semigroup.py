"""Losses of a flow map by its semigroup: a long step is two shorter ones."""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from src.diffusion.conditions import Cond, rows_of
from src.diffusion.flow_map import FlowMap, ddim_map, map_coefficients
from src.diffusion.flow_map_losses import FlowMapLoss, Segment, Share, with_gradient_of
from src.diffusion.losses import Weighting
from src.diffusion.schedules import Schedule, Time, expand_like
from src.diffusion.teacher import Teacher


class Progressive(FlowMapLoss):
    r"""The semigroup: one step from t to s is two, over a time u between them.

    .. math:: R = \bar x_0(x_t, t, s) - \frac{b\, \bar x_0(x_t, t, u) + c\, \bar x_0(x_u, u, s)}{b + c}, \quad
              x_u = X(x_t, t, u)

    with the weights of :func:`joined_mean`. The two steps have no gradient.

    Args:
        weighting, off_diagonal, to_data, teacher, guidance_scale, adaptive_power, diagonal_steps: see `FlowMapLoss`.
        midpoint: True for u in the middle of s and t, False for a uniform one.

    Source: Boffi, Albergo, Vanden-Eijnden 2025, arXiv:2505.18825, section 3 (progressive self-distillation).
    """

    def __init__(
        self,
        weighting: Weighting,
        off_diagonal: Share = 0.5,
        to_data: Share = 0.0,
        teacher: Teacher | None = None,
        guidance_scale: float = 1.0,
        adaptive_power: Annotated[float, Ge(0)] = 0.0,
        midpoint: bool = False,
        diagonal_steps: Annotated[int, Ge(0)] = 0,
    ):
        super().__init__(weighting, off_diagonal, to_data, teacher, guidance_scale, adaptive_power, diagonal_steps)
        self.midpoint = midpoint

    def residual(self, flow_map, segment):
        x_t, t, s, _, cond = segment
        predicted = flow_map(x_t, t, cond, s=s).x_0
        with torch.no_grad():
            u = self.between(flow_map, segment)
            first, second = self.two_steps(flow_map, segment, u)
            residual = predicted - joined_mean(flow_map.schedule, t, u, s, first, second)
        return with_gradient_of(predicted, residual)

    def between(self, flow_map: FlowMap, segment: Segment) -> Time:
        """The time u between s and t."""
        if self.midpoint:
            return (segment.t + segment.s) / 2
        draws = None if flow_map.training else torch.Generator().manual_seed(1)
        return torch.lerp(segment.s, segment.t, torch.rand(len(segment.t), generator=draws, dtype=torch.float64))

    def two_steps(self, flow_map: FlowMap, segment: Segment, u: Time) -> tuple[Tensor, Tensor]:
        """The mean data of the step from t to u and of that from u to s."""
        x_t, t, s, _, cond = segment
        first = flow_map(x_t, t, cond, s=u).x_0
        return first, flow_map(ddim_map(flow_map.schedule, x_t, first, t, u), u, cond, s=s).x_0


class Shortcut(Progressive):
    r"""The semigroup on a fixed grid: a step of length :math:`d = 2^{-k}` is two of d / 2.

    t is rounded up to a multiple of d, and s = t - d. The shortest steps, of 1 / `steps`, are those of the denoiser.

    Args:
        weighting, off_diagonal, teacher, guidance_scale, adaptive_power, diagonal_steps: see `FlowMapLoss`.
        steps: number of the shortest steps, a power of 2.

    Source: Frans et al. 2024, arXiv:2410.12557, eq. 5 and section 3.1. There the two steps are those of the averaged
    weights; here of the weights themselves.
    """

    def __init__(
        self,
        weighting: Weighting,
        off_diagonal: Share = 0.25,
        teacher: Teacher | None = None,
        guidance_scale: float = 1.0,
        adaptive_power: Annotated[float, Ge(0)] = 0.0,
        steps: Annotated[int, Ge(2)] = 128,
        diagonal_steps: Annotated[int, Ge(0)] = 0,
    ):
        super().__init__(weighting, off_diagonal, 0.0, teacher, guidance_scale, adaptive_power, True, diagonal_steps)
        if steps < 2 or steps & (steps - 1):
            raise ValueError(f"loss.steps must be a power of 2, at least 2, got {steps}")
        self.steps = steps

    def times(self, schedule, t, draws):
        levels = self.steps.bit_length() - 1
        length = 0.5 ** torch.randint(levels, (len(t),), generator=draws).double()
        t = ((t / length).ceil() * length).clamp(max=1)
        return t, t - length

    def two_steps(self, flow_map, segment, u):
        x_t, t, s, _, cond = segment
        shortest = (t - u) * self.steps < 1.5
        first = self.step(flow_map, x_t, t, u, cond, shortest)
        return first, self.step(flow_map, ddim_map(flow_map.schedule, x_t, first, t, u), u, s, cond, shortest)

    def step(self, flow_map: FlowMap, x_t: Tensor, t: Time, s: Time, cond: Cond | None, shortest: Tensor) -> Tensor:
        """The mean data of a step, for the shortest steps that of the denoiser."""
        mean = flow_map(x_t, t, cond, s=s).x_0
        if not shortest.any():
            return mean
        rows = shortest.nonzero()[:, 0].to(x_t.device, non_blocking=True)
        return mean.index_put((rows,), self.denoise(flow_map, x_t[rows], t[shortest], rows_of(cond, rows)))


def joined_mean(schedule: Schedule, t: Time, u: Time, s: Time, first: Tensor, second: Tensor) -> Tensor:
    r"""The mean data of the step from t to s that two steps make, t to u with `first` and u to s with `second`.

    The weights are :math:`b = \frac{\sigma_s}{\sigma_u} w_{tu}` and :math:`c = w_{us}`, over their sum :math:`w_{ts}`,
    with w the weights of the data in the three steps.
    """
    ratio, weight = map_coefficients(schedule, u, s)
    before = ratio * map_coefficients(schedule, t, u)[1]
    share = torch.where(u == s, 0.0, weight / (before + weight))  # of the second
    return torch.lerp(first, second, expand_like(share, first))


class ProgressiveDistillation(Shortcut):
    """Progressive distillation: a step of twice the length is taught by two, from the teacher's steps of DDIM on.

    The stages of the paper, whose student is the next teacher, are learned at once, since the map is given the
    time to go to: t and s are those of :class:`Shortcut`, and its shortest steps are the teacher's.

    Args:
        weighting, teacher, off_diagonal, adaptive_power: see `FlowMapLoss`.
        steps: number of the teacher's steps, a power of 2.

    Source: Salimans, Ho 2022, arXiv:2202.00512, algorithm 2.
    """

    needs_teacher = True

    def __init__(
        self,
        weighting: Weighting,
        teacher: Teacher | None,
        off_diagonal: Share = 1.0,
        adaptive_power: Annotated[float, Ge(0)] = 0.0,
        steps: Annotated[int, Ge(2)] = 64,
    ):
        super().__init__(weighting, off_diagonal, teacher, 1.0, adaptive_power, steps)

r"""Losses of a flow map that need no solved trajectories: it is taught to agree with itself, or with a teacher.

All regress the same thing: with R the residual of a property of the flow map in the space of the data, they are
:math:`w(t)\, R^2`. On the diagonal s = t the residual is that of a denoiser, :math:`\hat x_0 - x_0`. The weighting and
its meaning are those of a denoiser's loss: with `weighting=flow` an error of the data is one of the velocity.

With :math:`\rho = \sigma_s / \sigma_t` and the :class:`~src.diffusion.flow_map.Coefficients` at t, along
:math:`\dot x = \frac{\dot\sigma}{\sigma} x - \text{speed} \cdot d`, where d is the data that say the direction

.. math:: \frac{d}{dt} X(x_t, t, s) = \text{speed} \cdot \left[\rho\, (\bar x_0 - d)
          + g\, \frac{d \bar x_0}{dt}\right], \quad g = \frac{\text{weight}}{\text{speed}}

which is 0 for the flow map (the Eulerian equation); the bracket is the residual in the space of the data.
"""

from abc import abstractmethod
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Interval
from torch import Tensor, nn

from src.diffusion.conditions import Cond, all_null, null_like, rows_of
from src.diffusion.flow_map import FlowMap, coefficients
from src.diffusion.losses import Loss, StepSizes, Weighting
from src.diffusion.schedules import Schedule, Time, expand_like
from src.diffusion.teacher import Teacher

Share = Annotated[float, Interval(ge=0, le=1)]


class Segment(NamedTuple):
    """Noisy data and where they are to be taken.

    Attributes:
        x_t: (B, C, *S), noisy data at t.
        t, s: (B,), times s < t.
        x_0: (B, C, *S), the data in x_t, or a better estimate of their mean, such as a teacher's.
        cond: the condition.
    """

    x_t: Tensor
    t: Time
    s: Time
    x_0: Tensor
    cond: Cond | None


class FlowMapLoss(nn.Module, Loss):
    r"""The base class of losses of a :class:`~src.diffusion.flow_map.FlowMap`. A new one implements `residual`.

    Args:
        weighting: maps (schedule, t) to w.
        off_diagonal: share of the samples with s < t; the others have s = t and teach the denoiser.
        to_data: share of these with s = 0; the others have s uniform in (0, t).
        teacher: says the data instead of x_0, guidance included; None to learn from the data alone.
        guidance_scale: scale of classifier-free guidance that is trained in, without a teacher: the data are
            :math:`w x_0 + (1 - w)\, \hat x_0(\varnothing)`. 1 for none. (Geng et al. 2025, arXiv:2505.13447, eq. 16.)
        adaptive_power: p; in training the loss L of a sample is divided by :math:`(L + 10^{-3})^p`, without gradient,
            so that rare large errors do not dominate (ibid., eq. 22).
        diagonal_steps: number of the first training steps in which all samples are on the diagonal: steps are then
            learned from a denoiser that is right.

    Attributes:
        trained_steps: number of training steps so far, in the checkpoint.
    """

    trained_steps: Tensor
    trains_flow_map, needs_teacher = True, False
    needs_data = False  # off the diagonal

    def __init__(
        self,
        weighting: Weighting,
        off_diagonal: Share = 0.5,
        to_data: Share = 0.0,
        teacher: Teacher | None = None,
        guidance_scale: float = 1.0,
        adaptive_power: Annotated[float, Ge(0)] = 0.0,
        diagonal_steps: Annotated[int, Ge(0)] = 0,
    ):
        super().__init__()
        self.register_buffer("trained_steps", torch.zeros((), dtype=torch.int64))
        self.counted = self.trained_steps, self.trained_steps._version, 0
        for name, value in {"off_diagonal": off_diagonal, "to_data": to_data}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"loss.{name} must be in [0, 1], got {value}")
        for name, least in {"adaptive_power": adaptive_power, "diagonal_steps": diagonal_steps}.items():
            if least < 0:
                raise ValueError(f"loss.{name} must be >= 0, got {least}")
        if teacher is not None and guidance_scale != 1:
            raise ValueError("loss.guidance_scale must be 1 with a teacher, whose own guidance is distilled")
        self.weighting, self.off_diagonal, self.to_data = weighting, off_diagonal, to_data
        self.teacher, self.guidance_scale, self.adaptive_power = teacher, guidance_scale, adaptive_power
        self.diagonal_steps = diagonal_steps
        self.last_step: dict[str, StepSizes] = {}

    def check(self, denoiser):
        super().check(denoiser)
        if not isinstance(denoiser, FlowMap):
            raise ValueError(f"{type(self).__name__} trains a flow map: use FlowMap(...) in place of Denoiser(...)")
        if self.needs_teacher and self.teacher is None:
            raise ValueError("distillation needs the run that is distilled: teacher=RUN")

    def forward(self, denoiser, x_0, t, noise, cond=None):
        flow_map = denoiser
        draws = None if denoiser.training else torch.Generator().manual_seed(0)  # the same in every validation
        moved = self.off_diagonal_rows(len(t), draws)
        if denoiser.training and self.diagonal_steps and self.count_steps() < self.diagonal_steps:
            moved = torch.zeros_like(moved)
        s = t.clone()
        t = t.clone()
        t[moved], s[moved] = self.times(flow_map.schedule, t[moved], draws)
        x_t = flow_map.schedule.add_noise(x_0, t, noise)
        losses = x_0.new_zeros(len(t))
        if flow_map.training:
            self.last_step = {}
        for rows, residual, needs_data in (
            (~moved, self.diagonal_residual, True),
            (moved, self.residual, self.needs_data),
        ):
            if rows.any():
                there = rows.nonzero()[:, 0].to(x_0.device, non_blocking=True)
                part = Segment(x_t[there], t[rows], s[rows], x_0[there], rows_of(cond, there))
                part = self.with_better_data(flow_map, part) if needs_data else part
                losses = losses.index_put((there,), self.size(flow_map, residual(flow_map, part), part))
        if flow_map.training:
            self.last_step["loss"] = StepSizes(losses.detach(), t, s)
        if denoiser.training:
            steps = self.count_steps()
            self.trained_steps += 1
            self.counted = self.trained_steps, self.trained_steps._version, steps + 1
        return losses

    def count_steps(self) -> int:
        """The value of `trained_steps`; read from the device, which waits, only if others set it: a checkpoint, DDP."""
        buffer, version, steps = self.counted
        if buffer is not self.trained_steps or version != buffer._version:
            steps = int(self.trained_steps)
            self.counted = self.trained_steps, self.trained_steps._version, steps
        return steps

    def _apply(self, fn, recurse=True):
        steps = self.count_steps()  # before it is moved to another device
        super()._apply(fn, recurse)
        self.counted = self.trained_steps, self.trained_steps._version, steps
        return self

    def figures(self) -> dict[str, float]:
        """Of the last derivative in training: its root mean square, and the largest with its t and s.

        Its growth is how this family of losses fails.
        """
        if "tangent" not in self.last_step:
            return {}
        tangent, *times = self.last_step["tangent"]
        worst = tangent.nan_to_num(torch.inf).argmax().cpu()
        t, s = (time[worst].item() for time in times)
        return {
            "tangent": tangent.square().mean().sqrt().item(),
            "largest_tangent": tangent[worst].item(),
            "t_of_largest_tangent": t,
            "s_of_largest_tangent": s,
        }

    def watch(self, flow_map: FlowMap, segment: Segment, tangent: Tensor) -> None:
        """Keep the size of the derivative of each sample, for `figures`."""
        if flow_map.training:
            size = tangent.detach().square().flatten(1).mean(1).sqrt()
            self.last_step["tangent"] = StepSizes(size, segment.t, segment.s)

    def diagonal_residual(self, flow_map: FlowMap, segment: Segment) -> Tensor:
        """The residual of the denoiser."""
        return flow_map(segment.x_t, segment.t, segment.cond).x_0 - segment.x_0

    @abstractmethod
    def residual(self, flow_map: FlowMap, segment: Segment) -> Tensor:
        """R, shaped as the data, 0 for the flow map; :func:`with_gradient_of` gives it a gradient of its own."""

    # ---- what it is made of ----

    def with_better_data(self, flow_map: FlowMap, segment: Segment) -> Segment:
        """The data that the denoiser learns: x_0, the teacher's prediction, or x_0 with guidance."""
        x_t, t, _, x_0, cond = segment
        if self.teacher is not None:
            return segment._replace(x_0=self.denoise(flow_map, x_t, t, cond))
        if self.guidance_scale == 1 or cond is None:
            return segment
        with torch.no_grad():
            away = flow_map(x_t, t, null_like(cond)).x_0
        given = ~all_null(cond).view(-1, *[1] * (x_0.ndim - 1))
        return segment._replace(x_0=torch.where(given, torch.lerp(away, x_0, self.guidance_scale), x_0))

    def denoise(self, flow_map: FlowMap, x_t: Tensor, t: Time, cond: Cond | None) -> Tensor:
        """The data predicted at t, of the teacher or of the flow map itself, without gradient."""
        with torch.no_grad():
            return self.predict(flow_map, x_t, t, cond)

    def predict(self, flow_map: FlowMap, x_t: Tensor, t: Time, cond: Cond | None) -> Tensor:
        """The data predicted at t, of the teacher or of the flow map itself."""
        if self.teacher is not None:
            return self.teacher(flow_map.schedule, x_t, t, cond)
        return flow_map(x_t, t, cond).x_0

    def off_diagonal_rows(self, n: int, draws: torch.Generator | None) -> Tensor:
        """True for the samples with s < t, evenly spread, since neighbors may have neighboring times."""
        ends = self.off_diagonal * torch.arange(n + 1, dtype=torch.float64) + torch.rand((), generator=draws)
        return ends.floor().diff() > 0

    def times(self, schedule: Schedule, t: Time, draws: torch.Generator | None) -> tuple[Time, Time]:
        """Draw s for times t, which a loss on a grid may change; returns both."""
        share, ends = (torch.rand(len(t), generator=draws, dtype=torch.float64) for _ in range(2))
        return t, torch.where(ends < self.to_data, 0.0, share * t)

    def size(self, flow_map: FlowMap, residual: Tensor, segment: Segment) -> Tensor:
        """The weighted mean square of a residual, (B,)."""
        weight = expand_like(self.weighting(flow_map.schedule, segment.t), residual)
        size = (weight.sqrt() * residual).square().flatten(1).mean(1)
        if self.adaptive_power and flow_map.training:
            size = size / (size.detach() + 1e-3) ** self.adaptive_power
        return size


class Eulerian(FlowMapLoss):
    r"""The Eulerian equation: taking x_t along its trajectory does not change where it ends.

    .. math:: R = \rho\, (\bar x_0 - d) + g\, \frac{d \bar x_0}{dt}, \quad d = \hat x_0(x_t, t)

    with d the denoiser's own prediction, or the teacher's. The gradient is that of :math:`\bar x_0` alone.

    Source: Boffi, Albergo, Vanden-Eijnden 2025, arXiv:2505.18825, section 3 (Eulerian self-distillation); with a
    teacher Boffi et al. 2024, arXiv:2406.07507 (Eulerian map distillation).
    """

    def directions(self, flow_map: FlowMap, segment: Segment) -> tuple[Tensor, Tensor]:
        """The data that say the direction of the trajectory, and those with which the mean is compared."""
        data = self.denoise(flow_map, segment.x_t, segment.t, segment.cond)
        return data, data

    def residual(self, flow_map, segment):
        predicted = flow_map(segment.x_t, segment.t, segment.cond, s=segment.s).x_0
        return with_gradient_of(predicted, self.equation(flow_map, segment))

    @torch.no_grad()
    def equation(self, flow_map: FlowMap, segment: Segment) -> Tensor:
        """R, without gradient."""
        x_t, t, s, _, cond = segment
        direction, data = self.directions(flow_map, segment)
        here = coefficients(flow_map.schedule, t, s)
        ratio, gain = expand_like(here.ratio, x_t), expand_like(here.weight / here.speed, x_t)
        velocity = expand_like(here.log_sigma_rate, x_t) * x_t - expand_like(here.speed, x_t) * direction
        mean, rate = flow_map.with_rate(x_t, t, s, cond, velocity)
        self.watch(flow_map, segment, gain * rate)
        return (mean - data) - (1 - ratio) * (mean - direction) + gain * rate


class MeanFlow(Eulerian):
    r"""The MeanFlow identity: the Eulerian equation with the data of each sample in place of their mean.

    .. math:: R = (\bar x_0 - x_0) - (1 - \rho)\, (\bar x_0 - d) + g\, \frac{d \bar x_0}{dt}

    d is x_0, or with `improved` the denoiser's own prediction, so that the derivative is along the trajectory, a
    function of x_t alone. On `schedule=flow`, :math:`-R / t` is the residual
    :math:`u - v + (t - s)\, du/dt` of the mean velocity u.

    Args:
        weighting, off_diagonal, to_data, teacher, guidance_scale, adaptive_power, diagonal_steps: see `FlowMapLoss`.
        improved: True for the direction of the improved objective.

    Source: Geng et al. 2025, arXiv:2505.13447, eq. 6 to 11; improved: Geng et al. 2025, arXiv:2512.02012.
    """

    needs_data = True

    def __init__(
        self,
        weighting: Weighting,
        off_diagonal: Share = 0.25,
        to_data: Share = 0.0,
        teacher: Teacher | None = None,
        guidance_scale: float = 1.0,
        adaptive_power: Annotated[float, Ge(0)] = 1.0,
        improved: bool = True,
        diagonal_steps: Annotated[int, Ge(0)] = 0,
    ):
        super().__init__(weighting, off_diagonal, to_data, teacher, guidance_scale, adaptive_power, diagonal_steps)
        self.improved = improved

    def directions(self, flow_map, segment):
        if not self.improved:
            return segment.x_0, segment.x_0
        return self.denoise(flow_map, segment.x_t, segment.t, segment.cond), segment.x_0


def with_gradient_of(predicted: Tensor, residual: Tensor) -> Tensor:
    """A residual whose gradient is that of the prediction alone."""
    return predicted - (predicted.detach() - residual)

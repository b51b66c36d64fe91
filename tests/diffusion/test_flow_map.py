"""The flow map and its losses against Gaussian data, for which the map is known in closed form on every schedule."""

import math

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.testing import assert_close

from src.diffusion import weightings
from src.diffusion.consistency import (
    ConsistencyDistillation,
    ConsistencyTraining,
    ContinuousConsistency,
)
from src.diffusion.discrete_schedules import VESDE
from src.diffusion.flow_map import FlowMap, coefficients, ddim_map, mean_data
from src.diffusion.flow_map_losses import Eulerian, MeanFlow, Segment
from src.diffusion.lagrangian import Lagrangian
from src.diffusion.parameterizations import X0, Flow, V
from src.diffusion.schedules import VPSDE, FlowSchedule, LinearVPSchedule, Schedule, SubVPSDE, expand_like
from src.diffusion.semigroup import Progressive, ProgressiveDistillation, Shortcut
from src.diffusion.teacher import Teacher
from src.samplers.ancestral import DDIM

SCHEDULES = {
    "flow": FlowSchedule(),
    "flow shifted": FlowSchedule(3.0),
    "vp_sde": VPSDE(),
    "sub_vp_sde": SubVPSDE(),
    "linear_vp": LinearVPSchedule(),
    "ve_sde": VESDE(),
}
MEAN, STD = 0.3, 0.6
T = torch.tensor([0.9, 0.5, 0.7, 0.31], dtype=torch.float64)
S = torch.tensor([0.2, 0.0, 0.69, 0.01], dtype=torch.float64)


def gaussian_map(schedule, x_t, t, s):
    r"""X(x_t, t, s) for data N(m, d^2): the quantile of x_t among the noisy data is kept."""
    (a, b), (c, d) = (schedule.alpha_sigma(v) for v in (t, s))
    a, b, c, d = (expand_like(v, x_t) for v in (a, b, c, d))
    return c * MEAN + ((c * STD) ** 2 + d**2).sqrt() / ((a * STD) ** 2 + b**2).sqrt() * (x_t - a * MEAN)


def gaussian_denoiser(schedule, x_t, t):
    """E[x_0 | x_t] of the same data."""
    a, b = (expand_like(v, x_t) for v in schedule.alpha_sigma(t))
    return MEAN + a * STD**2 / ((a * STD) ** 2 + b**2) * (x_t - a * MEAN)


class GaussianNet(nn.Module):
    """The net of the exact flow map, which reads the times from the noise levels 1000 t and 1000 s."""

    def __init__(self, schedule, parameterization):
        super().__init__()
        self.schedule, self.parameterization = schedule, parameterization
        self.error = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, c_noise, cond=None):
        t, s = (c_noise / 1000).unbind(1)
        c_in, c_skip, c_out, _ = (expand_like(c, x) for c in self.parameterization.preconditioning(self.schedule, t))
        x_t = x / c_in
        (a, b), ends = (self.schedule.alpha_sigma(v) for v in (t, s))
        # At s = 0 some schedules have an infinite rate, which times the rate 0 of s is not a number.
        c, d = (torch.where(s == 0, forward_ad.unpack_dual(v).primal, v) for v in ends)
        # (X - ratio x_t) / weight, in a form that is exact at s = t too, where it is the denoiser.
        spread_t, spread_s = ((a * STD) ** 2 + b**2).sqrt(), ((c * STD) ** 2 + d**2).sqrt()
        slope = STD**2 * (a * d + c * b) / (spread_t * (b * spread_s + d * spread_t))
        x_0 = MEAN + expand_like(slope, x) * (x_t - expand_like(a, x) * MEAN)
        return (x_0 - c_skip * x_t) / c_out + self.error


def exact(schedule, parameterization=None):
    parameterization = parameterization or X0()
    return FlowMap(GaussianNet(schedule, parameterization), schedule, parameterization)


def noisy(shape=(4, 1, 5)):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("parameterization", [X0(), V(), Flow()], ids=["x0", "v", "flow"])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_map_of_gaussian_data(schedule, parameterization):
    flow_map, x_t = exact(schedule, parameterization), noisy()
    assert_close(flow_map.map(x_t, T, S), gaussian_map(schedule, x_t, T, S))
    assert_close(flow_map(x_t, T).x_0, gaussian_denoiser(schedule, x_t, T))
    assert torch.equal(flow_map.map(x_t, T, T), x_t)


@pytest.mark.parametrize("parameterization", [X0(), V(), Flow()], ids=["x0", "v", "flow"])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_rates_are_derivatives(schedule, parameterization):
    """Central differences of the prediction along t, with x moving, and along s."""
    flow_map, x_t, h = exact(schedule, parameterization), noisy(), 1e-5
    speed = torch.full_like(x_t, 0.7)
    x_0, rate = flow_map.with_rate(x_t, T, S, None, speed)
    assert_close(x_0, flow_map(x_t, T, s=S).x_0)
    after, before = (flow_map(x_t + step * speed, T + step, s=S).x_0 for step in (h, -h))
    assert_close(rate, (after - before) / (2 * h), atol=1e-6, rtol=1e-6)
    s = S.clamp(min=0.01)
    _, rate = flow_map.with_rate(x_t, T, s)
    after, before = (flow_map(x_t, T, s=s + step).x_0 for step in (h, -h))
    assert_close(rate, (after - before) / (2 * h), atol=1e-6, rtol=1e-6)


def losses(schedule):
    """Every loss, of which the consistency ones have been trained for long: their neighbors are near."""
    teacher = Teacher(exact(schedule))
    w = weightings.uniform_weighting
    trained = ConsistencyTraining(w, adaptive_power=0, q=2.0, stage_steps=1, stages=16)
    trained.trained_steps += 16
    continuous = ContinuousConsistency(w, warmup_steps=0)
    return {
        "eulerian": Eulerian(w),
        "eulerian teacher": Eulerian(w, teacher=teacher),
        "mean_flow": MeanFlow(w, 0.5, improved=False),
        "mean_flow improved": MeanFlow(w, 0.5),
        "lagrangian": Lagrangian(w),
        "lagrangian teacher": Lagrangian(w, teacher=teacher),
        "progressive": Progressive(w),
        "progressive midpoint": Progressive(w, midpoint=True, to_data=0.5),
        "shortcut": Shortcut(w, 0.5, steps=2**12),
        "consistency_training": trained,
        "consistency_distillation": ConsistencyDistillation(w, teacher, adaptive_power=0, steps=2**16),
        "continuous_consistency": continuous,
        "progressive_distillation": ProgressiveDistillation(w, teacher, steps=2**12),
    }


@pytest.mark.parametrize("name", losses(FlowSchedule()))
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_exact_map_has_no_loss_and_no_gradient(schedule, name):
    """With the mean of the data given x_t in place of a sample, which is what the losses average over."""
    flow_map, x_t = exact(schedule), noisy((8, 1, 5))
    t = torch.linspace(0.05, 0.95, 8, dtype=torch.float64)
    x_0 = gaussian_denoiser(schedule, x_t, t)
    alpha, sigma = (expand_like(v, x_t) for v in schedule.alpha_sigma(t))
    loss = losses(schedule)[name]
    values = loss(flow_map, x_0, t, (x_t - alpha * x_0) / sigma)
    values.sum().backward()
    assert values.max() < 1e-6, values
    assert abs(flow_map.net.error.grad) < 1e-3


# ---- what the losses are in the papers, for a map that is not exact ----


class Smooth(nn.Module):
    """Any smooth function of x and the two times."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.8, dtype=torch.float64))

    def forward(self, x, c_noise, cond=None):
        t, s = (expand_like(v / 1000, x) for v in c_noise.unbind(1))
        return torch.sin(self.weight * x + 2 * t) + torch.cos(x.flip(-1) * t + s) * (t + 0.3 * s)


class Trigonometric(Schedule):
    """The schedule of TrigFlow, over t in [0, 1]."""

    def alpha_sigma(self, t):
        return torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2)


def wrong(schedule, parameterization=None):
    return FlowMap(Smooth(), schedule, parameterization or Flow())


def segment(schedule, t=T, s=S):
    x_0, noise = noisy((4, 1, 5)), noisy((8, 1, 5))[4:]
    return Segment(schedule.add_noise(x_0, t, noise), t, s, x_0, None), noise


def test_mean_flow_in_the_form_of_its_paper():
    """R / -t is u - v + (t - s) du/dt, by another derivative in forward mode, and its loss with adaptive weights."""
    flow_map = wrong(FlowSchedule())
    part, noise = segment(flow_map.schedule)
    v = noise - part.x_0
    times, ends = expand_like(T, v), expand_like(S, v)

    def mean_velocity(x, t):
        c_noise = 1000 * torch.stack([t.flatten(1)[:, 0], S], 1)
        c_in = ((1 - t) ** 2 + t**2).rsqrt()
        return flow_map.net(c_in * x, c_noise)  # parameterization=flow predicts u on the diagonal

    # x_0 = (x_t - sigma F) / (alpha + sigma), so that u = (x_t - x_0) / t is F.
    u, rate = torch.func.jvp(mean_velocity, (part.x_t, times), (v, torch.ones_like(times)))
    loss = MeanFlow(weightings.flow_weighting, improved=False)
    assert_close(loss.residual(flow_map, part) / -times, u - v + (times - ends) * rate)
    # Improved: the derivative along the predicted velocity, the regression still on v.
    predicted = flow_map.net(part.x_t * (((1 - times) ** 2 + times**2).rsqrt()), 1000 * torch.stack([T, T], 1))
    _, rate = torch.func.jvp(mean_velocity, (part.x_t, times), (predicted, torch.ones_like(times)))
    improved = MeanFlow(weightings.flow_weighting)
    assert_close(improved.residual(flow_map, part) / -times, u - v + (times - ends) * rate)
    size = loss.size(flow_map.eval(), loss.residual(flow_map, part), part)
    assert_close(loss.size(flow_map.train(), loss.residual(flow_map, part), part), size / (size + 1e-3))


def test_mean_flow_is_the_eulerian_loss_in_another_form():
    """With the prediction in place of the sample they have one residual."""
    flow_map = wrong(VPSDE())
    part, _ = segment(flow_map.schedule)
    same = part._replace(x_0=flow_map(part.x_t, T).x_0.detach())
    for improved in (False, True):
        mean_flow = MeanFlow(weightings.uniform_weighting, improved=improved)
        assert_close(
            mean_flow.residual(flow_map, same), Eulerian(weightings.uniform_weighting).residual(flow_map, same)
        )


def test_eulerian_and_lagrangian_are_derivatives_of_the_map():
    """d/dt X(x_t, t, s) along the ODE, and d/ds X less the velocity there, by central differences."""
    flow_map, h = wrong(SubVPSDE()), 1e-5
    part, _ = segment(flow_map.schedule, s=S.clamp(min=0.02))
    x_t, t, s, *_ = part

    def velocity(x, t):
        """dx/dt of the ODE, as d(x / sigma) = x_0 d kappa."""
        there, before = (ddim_map(flow_map.schedule, x, flow_map(x, t).x_0, t, u) for u in (t + h, t - h))
        return (there - before) / (2 * h)

    moved = velocity(x_t, t)
    after, before = (flow_map.map(x_t + step * moved, t + step, s) for step in (h, -h))
    here = coefficients(flow_map.schedule, t, s)
    residual = Eulerian(weightings.uniform_weighting).residual(flow_map, part)
    assert_close((after - before) / (2 * h), expand_like(here.speed, x_t) * residual, atol=1e-5, rtol=1e-5)
    after, before = (flow_map.map(x_t, t, s + step) for step in (h, -h))
    wanted = (after - before) / (2 * h) - velocity(flow_map.map(x_t, t, s), s)
    residual = Lagrangian(weightings.uniform_weighting).residual(flow_map, part)
    speed = coefficients(flow_map.schedule, s, s).speed
    assert_close(wanted, -expand_like(speed, x_t) * residual, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("teacher", [None, Teacher(wrong(VPSDE()))], ids=["itself", "teacher"])
def test_the_gradient_of_the_lagrangian_loss(teacher):
    """That of the map alone, with the parameters of the denoiser held, by central differences of a second copy."""
    flow_map, held, h = wrong(VPSDE()), wrong(VPSDE()), 1e-6
    loss = Lagrangian(weightings.uniform_weighting, teacher=teacher)
    part, _ = segment(flow_map.schedule, s=S.clamp(min=0.02))
    loss.residual(flow_map, part).square().sum().backward()
    apart = Lagrangian(weightings.uniform_weighting, teacher=Teacher(held))  # its denoiser does not move with the map
    values = []
    for step in (h, -h):
        with torch.no_grad():
            flow_map.net.weight += step
        values.append(apart.residual(flow_map, part).square().sum())
        with torch.no_grad():
            flow_map.net.weight -= step
    assert_close(flow_map.net.weight.grad, (values[0] - values[1]) / (2 * h), atol=1e-6, rtol=1e-5)
    assert held.net.weight.grad is None


def test_shortcut_is_the_discrete_semigroup():
    """The mean velocity of a step is the mean of those of its halves, the shortest being the denoiser's."""
    flow_map, loss = wrong(FlowSchedule()), Shortcut(weightings.flow_weighting, steps=8)
    t, s = torch.tensor([1.0, 0.75, 0.5, 1.0]).double(), torch.tensor([0.0, 0.5, 0.25, 0.75]).double()
    part, _ = segment(flow_map.schedule, t, s)

    def velocity(x, t, s):
        return (x - flow_map(x, t, s=s).x_0) / expand_like(t, x)

    u = (t + s) / 2
    shortest = t - u < 0.13
    first = velocity(part.x_t, t, torch.where(shortest, t, u))
    second = velocity(part.x_t + expand_like(u - t, first) * first, u, torch.where(shortest, u, s))
    residual = loss.residual(flow_map, part) / expand_like(t, first)
    assert_close(-residual, velocity(part.x_t, t, s) - (first + second) / 2)
    drawn, ends = loss.times(flow_map.schedule, torch.linspace(0.01, 1, 64).double(), None)
    lengths = drawn - ends
    assert set(lengths.tolist()) <= {1.0, 0.5, 0.25}
    assert_close(drawn / lengths, (drawn / lengths).round())


def test_progressive_distillation_teaches_two_steps_of_ddim():
    schedule = VPSDE()
    teacher, student = wrong(schedule, V()), wrong(schedule)
    loss = ProgressiveDistillation(weightings.uniform_weighting, Teacher(teacher), steps=16)
    t = torch.full((4,), 0.5, dtype=torch.float64)
    s = t - 2 / 16
    part, _ = segment(schedule, t, s)
    sampler = DDIM(schedule)
    grid = torch.tensor([8 / 16, 7 / 16, 6 / 16], dtype=torch.float64)
    *_, end = sampler.trajectory(lambda x, t: teacher(x, t).x_0, part.x_t, torch.randn_like, times=grid)
    target = mean_data(schedule, part.x_t, end.x_t, t, s)
    assert_close(loss.residual(student, part), student(part.x_t, t, s=s).x_0 - target)


@pytest.mark.parametrize("schedule", [FlowSchedule(), VPSDE(), VESDE()], ids=["flow", "vp_sde", "ve_sde"])
def test_consistency_at_small_steps_is_eulerian(schedule):
    """To first order in the distance of the neighbor."""
    flow_map, teacher = wrong(schedule), Teacher(wrong(schedule, X0()))
    part, _ = segment(schedule)
    part = part._replace(x_0=teacher(schedule, part.x_t, T))
    wanted = Eulerian(weightings.uniform_weighting, teacher=teacher).residual(flow_map, part)
    errors = []
    for steps in (2**10, 2**11):
        near = ConsistencyDistillation(weightings.uniform_weighting, teacher, steps=steps)
        errors.append((near.residual(flow_map, part) - wanted).abs().max())
    assert errors[1] < 0.02 * wanted.abs().max()
    assert_close(errors[0] / errors[1], torch.tensor(2.0, dtype=torch.float64), atol=0.1, rtol=0)


def test_easy_consistency_training_in_the_form_of_its_paper():
    """On sigma = t: f(x_t) - f(x_r) over 1 - r / t, r from the stage; a denoiser in the first."""
    schedule = VESDE()
    flow_map, loss = wrong(schedule, V()), ConsistencyTraining(weightings.uniform_weighting, stage_steps=10)
    part, noise = segment(schedule, s=torch.zeros(4, dtype=torch.float64))
    denoised = flow_map(part.x_t, T, s=part.s).x_0
    assert_close(
        loss.residual(flow_map, part), expand_like(loss_factor(schedule, T, 0 * T), noise) * (denoised - part.x_0)
    )
    loss.trained_steps += 50
    sigma = schedule.alpha_sigma(T)[1]
    r = T * (1 - 2.0**-5 * (1 + 8 / (1 + sigma.exp())))
    other = flow_map(schedule.add_noise(part.x_0, r, noise), r, s=part.s).x_0
    assert_close(loss.residual(flow_map, part), expand_like(loss_factor(schedule, T, r), noise) * (denoised - other))


def test_losses_of_the_network_against_itself_rank_no_checkpoints():
    assert all(loss.ranks_checkpoints for loss in (Eulerian, MeanFlow, Lagrangian, Progressive, Shortcut))
    consistency = ConsistencyTraining, ConsistencyDistillation, ContinuousConsistency
    assert not any(loss.ranks_checkpoints for loss in consistency)


def loss_factor(schedule, t, r):
    """The factor of the difference of neighbors at s = 0, sigma / (d sigma / dt) / (t - r)."""
    h = 1e-6
    after, before = (schedule.alpha_sigma(t + step)[1].log() for step in (h, -h))
    return 2 * h / (after - before) / (t - r)


def test_continuous_consistency_in_the_form_of_its_paper():
    """Algorithm 1 for sigma_d = 1: g = -cos^2 (F - dx/dt) - r cos sin (x + dF/dt), by its own derivative."""
    schedule, steps = Trigonometric(), 30
    flow_map = FlowMap(Smooth(), schedule, V())
    loss = ContinuousConsistency(weightings.v_weighting, warmup_steps=100)
    loss.trained_steps += steps
    part, noise = segment(schedule, s=torch.zeros(4, dtype=torch.float64))
    angle = expand_like(T, noise) * math.pi / 2
    cos, sin = angle.cos(), angle.sin()
    velocity = cos * noise - sin * part.x_0

    def output(x, angle):
        c_noise = 1000 * torch.stack([angle.flatten(1)[:, 0] * 2 / math.pi, part.s], 1)
        return flow_map.net(x, c_noise)

    value, rate = torch.func.jvp(output, (part.x_t, angle), (velocity, torch.ones_like(angle)))
    g = -(cos**2) * (value - velocity) - steps / 100 * cos * sin * (part.x_t + rate)
    norm = g.square().flatten(1).mean(1).sqrt()[:, None, None]
    # The loss |F - sg(F) - g / (|g| + c)|^2, that is of F's residual -g / (|g| + c), with x_0 = cos x - sin F.
    wanted = sin * g / (norm + 0.1)
    assert_close(loss.residual(flow_map, part), wanted, atol=1e-6, rtol=1e-5)


def test_the_first_steps_teach_the_denoiser_alone():
    """In training, not in validation; the number of steps is in the checkpoint."""
    schedule = FlowSchedule()
    flow_map, plain = wrong(schedule), Progressive(weightings.uniform_weighting, off_diagonal=0)
    loss = Progressive(weightings.uniform_weighting, diagonal_steps=2)
    x_0, noise = noisy((4, 1, 5)), noisy((8, 1, 5))[4:]
    wanted = plain(flow_map, x_0, T, noise)
    first, second, third = (loss(flow_map.train(), x_0, T, noise) for _ in range(3))
    assert torch.equal(first, wanted) and torch.equal(second, wanted) and not torch.equal(third, wanted)
    assert not torch.equal(
        Progressive(weightings.uniform_weighting, diagonal_steps=2)(flow_map.eval(), x_0, T, noise), wanted
    )
    resumed = Progressive(weightings.uniform_weighting, diagonal_steps=2)
    resumed.load_state_dict(loss.state_dict())
    assert not torch.equal(resumed(flow_map.train(), x_0, T, noise), wanted)


@pytest.mark.parametrize("loss", [Eulerian(weightings.uniform_weighting), Lagrangian(weightings.uniform_weighting)])
def test_figures_name_the_largest_derivative(loss):
    """In training only, with its times; one that is not finite is the largest."""
    flow_map = wrong(FlowSchedule())
    part, _ = segment(flow_map.schedule)
    loss.residual(flow_map.eval(), part)
    assert loss.figures() == {}
    loss.residual(flow_map.train(), part)
    figures = loss.figures()
    assert 0 < figures["tangent"] <= figures["largest_tangent"] <= 2 * figures["tangent"]
    i = part.t.tolist().index(figures["t_of_largest_tangent"])
    assert part.s[i] == figures["s_of_largest_tangent"]
    part.x_t[2] = torch.nan
    loss.residual(flow_map, part)
    assert loss.figures()["t_of_largest_tangent"] == part.t[2]

"""Errors of a flow map: none of the exact one but the solver's, and those of wrong ones of a known order."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from src.data.gaussian_mixture import GaussianMixture
from src.diffusion.flow_map import FlowMap
from src.diffusion.parameterizations import X0
from src.diffusion.schedules import FlowSchedule, expand_like
from src.metrics.flow_map import FlowMapMetrics, order
from src.samplers.flow_map import FlowMapSampler
from src.samplers.pipeline import Pipeline
from tests.diffusion.test_flow_map import exact, wrong


def pipeline_of(flow_map, shape=(1, 5)):
    return Pipeline(flow_map, FlowMapSampler(flow_map.schedule), shape)


def measured(flow_map):
    pipeline = pipeline_of(flow_map)
    with pipeline.inference():
        return FlowMapMetrics(samples=8, times=4, steps_per_interval=16).measure(pipeline)


def test_the_exact_map_has_the_error_of_the_solver():
    errors, semigroup = measured(exact(FlowSchedule()))
    assert errors.max() < 2e-3 and semigroup < 1e-5
    assert_close(errors.tril(), torch.zeros(5, 5))


def test_a_wrong_map_has_errors_everywhere():
    errors, semigroup = measured(wrong(FlowSchedule()))
    above = torch.ones(5, 5).triu(1).bool()
    assert errors[:-1][above[:-1]].min() > 1e-3 and semigroup > 1e-2


# ---- against the exact map ----

DATA = GaussianMixture(n=2, modes=1, radius=0.5, std=0.6, num_classes=0)  # whose map is smooth and in closed form


def gaussian_map(x_t, t, s):
    """X of the data, N(m, d^2), on schedule=flow."""
    mean, std = DATA.means, DATA.std
    spread_t, spread_s = (((1 - u) ** 2 * std**2 + u**2) ** 0.5 for u in (t, s))
    return (1 - s) * mean + spread_s / spread_t * (x_t - (1 - t) * mean)


class Known(nn.Module):
    """The net that says the mean data on the way, `mean_data(x_t, t, s)`, of a map on schedule=flow."""

    def __init__(self, mean_data):
        super().__init__()
        self.mean_data, self.weight = mean_data, nn.Parameter(torch.zeros(()))

    def forward(self, x, c_noise, cond=None):
        t, s = (expand_like(v.double() / 1000, x) for v in c_noise.unbind(1))
        c_in = X0().preconditioning(FlowSchedule(), t).c_in
        return self.mean_data(x.double() / c_in, t, s).to(x.dtype)


def known(mean_data):
    return FlowMap(Known(mean_data), FlowSchedule(), X0())


def denoiser(x_t, t, s):
    """The denoiser, whatever s: steps of DDIM."""
    return DATA.means + (1 - t) * DATA.std**2 / ((1 - t) ** 2 * DATA.std**2 + t**2) * (x_t - (1 - t) * DATA.means)


def with_error(power):
    """The exact map with an error of the mean data of t (t - s)^power, so that of a step is 0.1 (t - s)^(power + 1)."""

    def mean_data(x_t, t, s):
        ratio = s / t
        exact_mean = (gaussian_map(x_t, t, s) - ratio * x_t) / ((1 - s) - ratio * (1 - t))
        return exact_mean + 0.1 * t * (t - s) ** power

    return mean_data


@pytest.mark.parametrize(
    ("mean_data", "wanted"), [(denoiser, 1), (with_error(1), 1), (with_error(2), 2)], ids=["ddim", "first", "second"]
)
def test_the_order_of_convergence(mean_data, wanted):
    pipeline = pipeline_of(known(mean_data).double(), (2,))
    metric = FlowMapMetrics(times=2, steps=[16, 32, 64], exact_samples=32)
    with pipeline.inference():
        errors, by_steps = metric.compare(pipeline, DATA.posterior_mean)
    assert order(metric.steps, by_steps) == pytest.approx(wanted, abs=0.1)
    if mean_data is not denoiser:
        assert errors[0, 2] == pytest.approx(0.1, rel=1e-4)  # one step from 1 to 0, where the weight of the data is 1


def test_errors_are_those_against_the_exact_map():
    """Of one that is right, to the float32 of its samples; the section reports them if the denoiser is known."""
    pipeline = pipeline_of(known(with_error(40)), (2,))
    context = SimpleNamespace(pipeline=pipeline, data=DATA)
    section = FlowMapMetrics(samples=4, times=4, steps=[2, 4], exact_samples=16)(context)
    errors = torch.tensor(section.tables["exact_map_errors"])
    assert errors[1:].max() < 1e-4 and errors[0, 4] == pytest.approx(0.1, rel=1e-3)
    assert section.values["exact_map_error"].value == errors[0, 4].item()
    assert set(section.pictures) == {"flow_map", "exact_flow_map"}
    context.data = SimpleNamespace(units=DATA.units)  # as other data, whose denoiser is not known
    assert set(FlowMapMetrics(samples=4, times=2)(context).values) == {"flow_map_error", "semigroup_error"}


def test_a_slope_of_logarithms():
    assert order([1, 2, 4, 8], torch.tensor([1, 2, 4, 8]) ** -1.5) == pytest.approx(1.5)
    assert math.isnan(order([1, 2], torch.tensor([1.0, math.nan])))


def test_steps_that_are_no_steps():
    with pytest.raises(ValueError, match="at least two numbers"):
        FlowMapMetrics(steps=[4, 4])

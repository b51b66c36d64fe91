"""Errors of a flow map: none of the exact one but the solver's, and those of a wrong one."""

import pytest
import torch
from torch.testing import assert_close

from src.diffusion.schedules import FlowSchedule
from src.metrics.flow_map import FlowMapMetrics
from src.samplers.flow_map import FlowMapSampler
from src.samplers.pipeline import Pipeline
from tests.diffusion.test_flow_map import exact, wrong


@pytest.fixture
def measured():
    def measure(flow_map):
        pipeline = Pipeline(flow_map, FlowMapSampler(FlowSchedule()), (1, 5))
        with pipeline.inference():
            return FlowMapMetrics(samples=8, times=4, steps_per_interval=16).measure(pipeline)

    return measure


def test_the_exact_map_has_the_error_of_the_solver(measured):
    errors, semigroup = measured(exact(FlowSchedule()))
    assert errors.max() < 2e-3 and semigroup < 1e-5
    assert_close(errors.tril(), torch.zeros(5, 5))


def test_a_wrong_map_has_errors_everywhere(measured):
    errors, semigroup = measured(wrong(FlowSchedule()))
    above = torch.ones(5, 5).triu(1).bool()
    assert errors[:-1][above[:-1]].min() > 1e-3 and semigroup > 1e-2

"""Deterministic samplers reach the exact solution of the probability-flow ODE, with the order that they state.

The solution is known for Gaussian data, where the ODE is linear, and for a mixture, where it is not. The order is the
slope of the logarithm of the largest error over that of the number of steps.
"""

import math

import pytest

from tests.fixtures import SCHEDULES
from tests.samplers.registry import DETERMINISTIC, GRIDS, ORDER, SHAPES, SLACK, equal_in_log_snr, tensor, walk

# Those whose first steps, where there is hardly any signal, may be of any length.
FROM_NOISE = [name for name in DETERMINISTIC if name != "heun_ve"]

pytestmark = [pytest.mark.usefixtures("unchecked"), pytest.mark.strength(1)]


@pytest.fixture(params=SCHEDULES, scope="module")
def each_schedule(request):
    return SCHEDULES[request.param]()


def errors_between(name, schedule, truth, x_t, counts):
    """The largest ones of walks from 0.95 to 0.15 in steps that are equal in log-SNR."""
    for steps in counts:
        times = equal_in_log_snr(schedule, steps)
        end = walk(DETERMINISTIC[name](schedule, steps), truth.denoiser(schedule), x_t, times=times)
        yield float((end - truth.ode_solution(schedule, x_t, float(times[0]), float(times[-1]))).abs().max())


def errors_to_data(name, schedule, grid, truth, x_1, counts):
    """Errors of trajectories from t = 1 to t = 0."""
    for steps in counts:
        end = walk(DETERMINISTIC[name](schedule, steps, GRIDS[grid]), truth.denoiser(schedule), x_1)
        yield float((end - truth.ode_solution(schedule, x_1)).abs().max())


def gaussian_at(truth, schedule, t, z):
    mean, std = truth.moments(schedule, t)
    return mean + std * z


@pytest.mark.most(3)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_on_a_gaussian(name, each_schedule, gaussian, randn):
    truth = gaussian((1, 5))
    x_t = gaussian_at(truth, each_schedule, 0.95, randn(3, 1, 5))
    few, many = errors_between(name, each_schedule, truth, x_t, counts=(40, 80))
    assert many < {1: 0.06, 2: 3e-3, 3: 2e-4, 4: 1e-5}[ORDER[name]]
    assert math.log2(few / many) > ORDER[name] - SLACK.get(name, 0.2)
    if ORDER[name] == 1:
        assert math.log2(few / many) < 1.2


@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_on_a_mixture(name, data, make_schedule, mixture, randn):
    """Where the ODE is not linear; each shape on a schedule of another kind."""
    schedule = make_schedule(["cosine", "flow", "sub_vp_sde", "vp_sde", "ve_sde"][SHAPES.index(data)])
    truth = mixture(data)
    x_t = schedule.add_noise(truth.draw(10, randn), tensor(0.95), randn(10, *data))
    few, many = errors_between(name, schedule, truth, x_t, counts=(50, 100))
    assert many < {1: 0.04, 2: 2e-3, 3: 1e-4, 4: 1e-5}[ORDER[name]]
    assert math.log2(few / many) > ORDER[name] - SLACK.get(name, 0.25)
    if ORDER[name] == 1:
        assert math.log2(few / many) < 1.2


@pytest.mark.parametrize("name", FROM_NOISE)
def test_from_noise_to_data(name, each_schedule, gaussian, randn):
    """The whole way: the last step, and without any signal at t = 1 also the first, has infinite length in log-SNR.

    They leave an error of at most 2e-4, whatever the number of steps, since the grid has the same ends: half the
    variance of the noise at the last level over that of the data, and the other way round at the first. The third
    orders are at that floor.
    """
    truth = gaussian((1, 5))
    x_1 = gaussian_at(truth, each_schedule, 1.0, randn(3, 1, 5))
    few, many = errors_to_data(name, each_schedule, "log_snr", truth, x_1, counts=(20, 80))
    assert many < {1: 0.06, 2: 6e-3, 3: 4e-4, 4: 4e-4}[ORDER[name]]
    order = math.log(few / many, 4)
    assert order > {1: 0.9, 2: 1.4, 3: 1.6, 4: 1.6}[ORDER[name]] - (SLACK.get(name, 0)) or many < 2e-4


@pytest.mark.most(3)
@pytest.mark.parametrize(("schedule_name", "left"), [("linear", 0.3), ("flow", 0.3), ("ve_sde", 0.3), ("laplace", 0.9)])
@pytest.mark.parametrize("grid", ["uniform", "quadratic", "karras"])
@pytest.mark.parametrize("name", FROM_NOISE)
def test_every_grid_converges(name, grid, schedule_name, left, make_schedule, mixture, randn):
    """Four times the steps leave a share of the error, also where the ODE is not linear.

    It is a large one where the last step is long: equal steps of t on the Laplace schedule end on one from a log-SNR
    of 2, and 80 of them leave an error of 0.4. Steps in log-SNR belong there.
    """
    schedule, truth = make_schedule(schedule_name), mixture((2,))
    x_1 = schedule.add_noise(truth.draw(10, randn), tensor(1.0), randn(10, 2))
    few, many = errors_to_data(name, schedule, grid, truth, x_1, counts=(20, 80))
    assert many < (left + SLACK.get(name, 0) / 3) * few or many < 1e-3

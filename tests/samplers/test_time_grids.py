"""Step grids against their formulas and independent implementations."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EDMEulerScheduler
from torch.testing import assert_close

from src.diffusion import beta_schedules, discrete_schedules
from src.diffusion.schedules import FlowSchedule
from src.samplers import time_grids
from tests.fixtures import ENDS_IN_NOISE
from tests.samplers.registry import GRIDS, tensor

pytestmark = pytest.mark.strength(1)

AYS = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152]
STARTS = [1.0, 0.6, 0.31]


def noise_levels(schedule, times):
    """sigma / alpha."""
    alpha, sigma = schedule.alpha_sigma(times)
    return sigma / alpha


@pytest.mark.parametrize("steps", [1, 2, 10, 50])
@pytest.mark.parametrize("name", GRIDS)
def test_falls_from_start_to_0(name, steps, schedule):
    """Strictly; or is refused with the reason."""
    for start in STARTS:
        try:
            times = GRIDS[name](schedule, steps, start)
        except ValueError as error:
            assert "sampler.steps <= schedule.steps" in str(error) or "must decrease from t" in str(error)
            continue
        assert times.dtype == torch.float64
        assert len(times) == steps + 1
        assert (times[0], times[-1]) == (start, 0)
        assert (times.diff() < 0).all()


@pytest.mark.parametrize("name", GRIDS)
def test_begins_with_noise_unless_told(name):
    schedule = beta_schedules.CosineSchedule()
    assert torch.equal(GRIDS[name](schedule, 4), GRIDS[name](schedule, 4, 1.0))


@pytest.mark.parametrize("steps", [1, 3, 10, 1000])
@pytest.mark.parametrize("start", STARTS)
class TestInTime:
    def test_uniform(self, start, steps):
        expected = [start * (1 - i / steps) for i in range(steps + 1)]
        assert_close(time_grids.uniform_time_grid(FlowSchedule(), steps, start), tensor(expected), rtol=0, atol=1e-15)

    def test_quadratic(self, start, steps):
        expected = [start * (1 - i / steps) ** 2 for i in range(steps + 1)]
        assert_close(time_grids.quadratic_time_grid(FlowSchedule(), steps, start), tensor(expected), rtol=0, atol=1e-15)

    def test_trailing_is_uniform_where_time_is_continuous(self, start, steps):
        assert torch.equal(
            time_grids.trailing_time_grid(FlowSchedule(), steps, start),
            time_grids.uniform_time_grid(FlowSchedule(), steps, start),
        )


class TestTrailing:
    @pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 16, 33, 50, 60, 128, 333, 500, 1000])
    @pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
    def test_is_that_of_diffusers(self, kind, steps):
        """Their timestep k - 1 is our t = k / T."""
        scheduler = kind(timestep_spacing="trailing")
        scheduler.set_timesteps(steps)
        times = time_grids.trailing_time_grid(beta_schedules.LinearSchedule(), steps)
        assert ((times[:-1] * 1000).round().long() - 1).tolist() == scheduler.timesteps.tolist()
        assert_close(times[:-1] * 1000, (times[:-1] * 1000).round(), rtol=0, atol=1e-9)

    def test_visits_all_nodes(self):
        times = time_grids.trailing_time_grid(discrete_schedules.AdditiveSchedule(10), 10)
        assert_close(times, torch.arange(10, -1, -1).double() / 10, rtol=0, atol=1e-15)

    @pytest.mark.parametrize("steps", [11, 50])
    def test_refuses_more_steps_than_nodes(self, steps):
        with pytest.raises(
            ValueError, match=rf"needs sampler.steps <= schedule.steps, got {steps} and 10; use time_grid=uniform"
        ):
            time_grids.trailing_time_grid(discrete_schedules.AdditiveSchedule(10), steps)


@pytest.mark.parametrize("steps", [2, 5, 18, 50])
class TestInNoise:
    """Noise levels sigma / alpha from the highest, or `start`, to the lowest, and then 0."""

    def test_karras(self, steps, schedule, request):
        for rho, low, high in ((7.0, 0.02, 80.0), (3.0, 0.05, 10.0)):
            times = time_grids.karras_time_grid(schedule, steps, sigma_min=low, sigma_max=high, rho=rho)
            top = min(high, float(torch.exp(-schedule.log_snr(tensor(1.0)) / 2)))
            i = np.arange(steps)
            expected = (top ** (1 / rho) + i / (steps - 1) * (low ** (1 / rho) - top ** (1 / rho))) ** rho
            assert_close(noise_levels(schedule, times[1:-1]), tensor(expected[1:]), rtol=1e-7, atol=0)
            if request.node.callspec.params["schedule"] not in ENDS_IN_NOISE and top < high:
                assert float(noise_levels(schedule, times[0])) == pytest.approx(expected[0], rel=1e-9)

    def test_log_snr(self, steps, schedule):
        for low, high in ((0.02, 80.0), (0.05, 10.0)):
            times = time_grids.log_snr_time_grid(schedule, steps, sigma_min=low, sigma_max=high)
            top = min(high, float(torch.exp(-schedule.log_snr(tensor(1.0)) / 2)))
            expected = torch.linspace(-2 * math.log(top), -2 * math.log(low), steps, dtype=torch.float64)
            assert_close(schedule.log_snr(times[1:-1]), expected[1:], rtol=0, atol=1e-7)

    @pytest.mark.most(3)
    def test_from_a_start(self, steps, schedule):
        """The highest level is that of the start."""
        for make in (time_grids.karras_time_grid, time_grids.log_snr_time_grid):
            times = make(schedule, steps, 0.5, sigma_min=0.01)
            whole = make(schedule, steps, 1.0, sigma_min=0.01, sigma_max=float(noise_levels(schedule, tensor(0.5))))
            assert times[0] == 0.5
            assert_close(times[1:], whole[1:], rtol=1e-9, atol=1e-12)

    def test_karras_is_that_of_edm(self, steps):
        """On EDM's own schedule, and that of diffusers in its float32."""
        schedule = discrete_schedules.EDMSchedule(4000)
        levels = noise_levels(schedule, time_grids.karras_time_grid(schedule, steps)[:-1])
        i = torch.arange(steps, dtype=torch.float64)
        expected = (80 ** (1 / 7) + i / (steps - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
        assert_close(levels, expected, rtol=1e-9, atol=0)
        theirs = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, rho=7.0)
        theirs.set_timesteps(steps)
        assert_close(levels, theirs.sigmas[:-1].double(), rtol=2e-5, atol=0)

    def test_equal_steps_of_t_on_edms_schedule_are_its_time_steps(self, steps):
        """Its schedule of as many levels."""
        times = torch.arange(steps, 0, -1).double() / steps
        i = torch.arange(steps, dtype=torch.float64)
        expected = (80 ** (1 / 7) + i / (steps - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
        assert_close(
            time_grids.trailing_time_grid(discrete_schedules.EDMSchedule(steps), steps)[:-1], times, rtol=0, atol=1e-15
        )
        assert_close(noise_levels(discrete_schedules.EDMSchedule(steps), times), expected, rtol=1e-12, atol=0)


class TestGiven:
    def test_as_many_steps_as_levels(self, schedule):
        """The levels themselves; but t = 1, where the highest would be."""
        times = time_grids.align_your_steps_time_grid(schedule, 10, sigmas=AYS)
        top = float(torch.exp(-schedule.log_snr(tensor(1.0)) / 2))
        if top > AYS[0]:
            assert_close(noise_levels(schedule, times[1:-1]), tensor(AYS[1:]), rtol=1e-7, atol=0)
        else:
            assert (noise_levels(schedule, times[1:-1]) < top).all()
        assert times[0] == 1

    @pytest.mark.parametrize("steps", [2, 4, 10, 25])
    def test_interpolates_in_the_logarithm(self, steps, make_schedule):
        """As the code of the paper does."""
        schedule = make_schedule("linear")
        expected = np.exp(np.interp(np.linspace(0, 9, steps), np.arange(10), np.log(AYS)))
        levels = noise_levels(schedule, time_grids.align_your_steps_time_grid(schedule, steps, sigmas=AYS)[1:-1])
        assert_close(levels, tensor(expected[1:]), rtol=1e-9, atol=0)

    @pytest.mark.parametrize("start", [0.9, 0.5, 0.3])
    def test_from_a_start_the_levels_below_it(self, start, make_schedule):
        schedule = make_schedule("linear")
        top = float(noise_levels(schedule, tensor(start)))
        below = [v for v in AYS if v < min(top, AYS[0])]  # the start takes the place of the highest
        times = time_grids.align_your_steps_time_grid(schedule, len(below) + 1, start, sigmas=AYS)
        assert times[0] == start
        assert_close(noise_levels(schedule, times[1:-1]), tensor(below), rtol=1e-9, atol=0)

    @pytest.mark.parametrize("levels", [[], [1.0], [1.0, 2.0], [2.0, 1.0, 1.0], [2.0, 1.0, 0.0], [1.0, -1.0]])
    def test_refuses(self, levels, make_schedule):
        with pytest.raises(
            ValueError, match=r"time_grid\.sigmas must be a decreasing list of two or more noise levels > 0"
        ):
            time_grids.align_your_steps_time_grid(make_schedule("linear"), 10, sigmas=levels)


@pytest.mark.parametrize("make", [time_grids.karras_time_grid, time_grids.log_snr_time_grid])
class TestRefuses:
    @pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 1.0), (2.0, 1.0)])
    def test_levels_that_do_not_fall(self, low, high, make, make_schedule):
        with pytest.raises(ValueError, match=rf"time_grid must have 0 < sigma_min < sigma_max, got {low} and {high}"):
            make(make_schedule("linear"), 10, sigma_min=low, sigma_max=high)

    def test_levels_above_the_start(self, make, make_schedule):
        """Data with less noise already than the last level."""
        schedule = make_schedule("linear")
        with pytest.raises(ValueError, match=r"must decrease from t = 0\.01 to 0, .* choose another time_grid"):
            make(schedule, 10, 0.01, sigma_min=0.5)

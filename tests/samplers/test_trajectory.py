"""The loop that all samplers share: what it visits and costs, that it keeps nothing, and where noise comes from."""

import copy
import inspect
import pickle
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from src.diffusion.denoiser import Prediction
from src.samplers.ancestral import DDIM, DDPM
from src.samplers.base import SeededNoise
from src.samplers.clipping import StaticClip
from src.samplers.flow_map import FlowMapSampler
from src.samplers.multistep import AdamsBashforth, DPMpp2M, DPMpp3MSDE, UniPC
from src.samplers.noise_prediction import GradientEstimation
from src.samplers.ode import Euler, Heun, Restart
from src.samplers.sde import AnnealedLangevin, DPMppSDE, EulerMaruyama, PredictorCorrector
from src.samplers.time_grids import leading_time_grid
from src.utils.seeding import generator
from tests.fixtures import ENDS_IN_NOISE, SCHEDULES
from tests.samplers.registry import (
    AFFINE,
    BEYOND_X_0,
    DETERMINISTIC,
    GRIDS,
    ORDER,
    SAMPLERS,
    SHAPES,
    SINGLE_STEP,
    STOCHASTIC,
    evaluations,
    one_hot,
    sample,
    seeded,
    tensor,
    walk,
)

pytestmark = pytest.mark.strength(1, "each", "some")


def denoise(x_t, t):
    """Any prediction, of data in (-1, 1)."""
    return torch.tanh(0.8 * x_t + t - 0.3)


def accepted(schedule_names):
    """Each sampler with each schedule that it can begin on."""
    return [(s, n) for s in schedule_names for n in SAMPLERS if n != "euler_maruyama" or s not in ENDS_IN_NOISE]


def build(schedule_name, name):
    """The name, how to make the sampler, its schedule, and a shape: another one for each."""
    schedule = SCHEDULES[schedule_name]()
    shape = SHAPES[(list(SCHEDULES).index(schedule_name) + list(SAMPLERS).index(name)) % len(SHAPES)]
    return name, lambda *args, **kwargs: SAMPLERS[name](schedule, *args, **kwargs), schedule, shape


@pytest.fixture(params=accepted(SCHEDULES), ids="-".join)
def each(request):
    """On every schedule."""
    return build(*request.param)


@pytest.fixture(params=accepted(["cosine", "flow", "ve_sde"]), ids="-".join)
def some(request):
    """On one schedule of each kind, for what does not depend on it."""
    return build(*request.param)


class TestStates:
    def test_cost_and_content(self, each, randn):
        """As many evaluations as documented; each state on the grid, with the prediction that led to it."""
        name, make, schedule, shape = each
        for steps in 1, 2, 7:
            calls = []

            def recorded(x_t, t, calls=calls):
                calls.append((x_t, t, denoise(x_t, t)))
                return calls[-1][2]

            sampler, x_1 = make(steps), randn(2, *shape)
            states = list(sampler.trajectory(recorded, x_1, SeededNoise(range(2))))
            assert torch.equal(torch.stack([state.t for state in states]), sampler.times())
            assert states[0].x_0 is None
            assert torch.equal(states[0].x_t, x_1)
            assert len(calls) == evaluations(name, sampler, schedule)
            assert torch.equal(states[-1].x_0, calls[-1][2])
            assert all(state.x_t.isfinite().all() and state.x_t.shape == x_1.shape for state in states)
            if not name.startswith(BEYOND_X_0):
                assert_close(states[-1].x_t, states[-1].x_0, rtol=1e-12, atol=1e-12)

    @pytest.mark.most(3)
    def test_sample_is_the_end_of_the_trajectory_from_the_prior(self, some):
        """A sample is the same alone and among others in any order."""
        _, make, _, shape = some
        sampler, like = make(5), torch.empty(3, *shape, dtype=torch.float64)
        noise = SeededNoise([3, 7, "x"])
        several = sample(sampler, denoise, SeededNoise([3, 7, "x"]), like)
        assert torch.equal(several, walk(sampler, denoise, sampler.sample_prior(noise, like), noise))
        assert_close(several[1:2], sample(sampler, denoise, SeededNoise([7]), like[:1]), rtol=1e-10, atol=1e-10)
        assert (several[0] != several[1]).any()

    def test_clip(self, some, randn):
        """Every prediction is bounded, and so is the sample where it is one."""
        name, make, _, shape = some
        x_1 = randn(2, *shape)
        free = list(make(4).trajectory(denoise, x_1, seeded(0)))
        states = list(make(4, clip=StaticClip(0.3)).trajectory(denoise, x_1, seeded(0)))
        assert max(state.x_0.abs().max() for state in free[1:]) > 0.3
        assert max(state.x_0.abs().max() for state in states[1:]) <= 0.3
        if not name.startswith(BEYOND_X_0):
            assert states[-1].x_t.abs().max() <= 0.3 + 1e-12

    def test_takes_predictions_of_denoisers(self, some, randn):
        _, make, _, shape = some
        x_1 = randn(2, *shape)
        plain = walk(make(3), denoise, x_1, seeded(0))
        assert torch.equal(walk(make(3), lambda x, t: Prediction(denoise(x, t)), x_1, seeded(0)), plain)


class TestNothingStays:
    """A trajectory's state lives in the trajectory."""

    @pytest.mark.most(3)
    def test_interleaved(self, some, randn):
        """Two walks of one object step by step are the two walks one after the other."""
        _, make, _, shape = some
        sampler, a, b = make(6), randn(2, *shape), randn(3, *shape)
        after = [[s.x_t for s in sampler.trajectory(denoise, x, seeded(i))] for i, x in enumerate((a, b))]
        both = zip(*(sampler.trajectory(denoise, x, seeded(i)) for i, x in enumerate((a, b))), strict=True)
        for i, states in enumerate(both):
            for k in range(2):
                assert torch.equal(states[k].x_t, after[k][i])

    def test_an_unfinished_walk_leaves_nothing(self, some, randn):
        _, make, _, shape = some
        sampler, x = make(6), randn(2, *shape)
        begun = sampler.trajectory(denoise, randn(2, *shape), seeded(1))
        for _ in range(4):
            next(begun)
        assert torch.equal(walk(sampler, denoise, x, seeded(0)), walk(make(6), denoise, x, seeded(0)))

    def test_copies(self, some, randn):
        """Also of a used one."""
        _, make, schedule, shape = some
        sampler, x = make(4, clip=StaticClip(2.0)), randn(2, *shape)
        expected = walk(sampler, denoise, x, seeded(0))
        assert torch.equal(walk(copy.deepcopy(sampler), denoise, x, seeded(0)), expected)
        if type(schedule).__module__.startswith("src."):
            assert torch.equal(walk(pickle.loads(pickle.dumps(sampler)), denoise, x, seeded(0)), expected)


class TestParts:
    """From any time, and a walk in parts."""

    @pytest.mark.parametrize("name", SINGLE_STEP)
    def test_two_halves_are_one_whole(self, name, schedule, randn, request):
        """From a stored x_t and with the streams of noise that go on."""
        if name == "euler_maruyama" and request.node.callspec.params["schedule"] in ENDS_IN_NOISE:
            return
        sampler, x_1, noise = SAMPLERS[name](schedule, 10), randn(2, 3, 5), SeededNoise(range(2))
        times = sampler.times()
        whole = list(sampler.trajectory(denoise, x_1, SeededNoise(range(2))))
        first = list(sampler.trajectory(denoise, x_1, noise, times=times[:6]))
        second = list(sampler.trajectory(denoise, first[-1].x_t.clone(), noise, times=times[5:]))
        for state, expected in zip(first + second[1:], whole, strict=True):
            assert torch.equal(state.t, expected.t)
            # The last bit of a coefficient may depend on how many are computed at once.
            assert_close(state.x_t, expected.x_t, rtol=0, atol=1e-13)
        if name not in ("restart", "heun churn"):
            again = SAMPLERS[name](schedule, 5).trajectory(denoise, whole[5].x_t, noise, start=float(times[5]))
            assert_close(torch.stack([s.t for s in again]), times[5:], rtol=0, atol=1e-15)

    @pytest.mark.most(3)
    @pytest.mark.parametrize("name", [name for name in DETERMINISTIC if name not in SINGLE_STEP])
    def test_halves_of_a_multistep_method_are_no_worse(self, name, make_schedule, gaussian, randn):
        """The second half begins without the first one's predictions: as good as the solution, but not the same."""
        schedule, truth = make_schedule("cosine"), gaussian((3, 5))
        mean, std = truth.moments(schedule, 1.0)
        x_1, predict = mean + std * randn(2, 3, 5), truth.denoiser(schedule)
        sampler = DETERMINISTIC[name](schedule, 60, GRIDS["log_snr"])
        times, exact = sampler.times(), truth.ode_solution(schedule, x_1)
        whole = walk(sampler, predict, x_1)
        halves = walk(sampler, predict, walk(sampler, predict, x_1, times=times[:31]), times=times[30:])
        assert not torch.equal(halves, whole)
        assert (halves - exact).abs().max() < (0.1 if ORDER[name] == 1 else 0.02)

    @pytest.mark.usefixtures("unchecked")
    def test_from_any_time(self, each, gaussian):
        """Begun at the law of x_t, the data's comes out; by the coefficients of the noise, see test_laws.py.

        Within the errors of 60 steps of the first order, and of the higher ones.
        """
        name, make, schedule, _ = each
        if name in STOCHASTIC and name not in AFFINE:
            pytest.skip("what comes out is no sum of its draws; see test_langevin.py")
        truth, start = gaussian((5,)), 0.37
        grid = "uniform" if name == "euler_maruyama" else "log_snr"
        sampler = make(60, GRIDS[grid], **({"steps_per_restart": 12} if name == "restart" else {}))
        times = sampler.times(start)
        assert times[0] == start
        mean, std = truth.moments(schedule, start)
        x_t = mean.expand(7 * len(times), 5).clone()
        x_t[1] += std
        end = walk(sampler, truth.denoiser(schedule), x_t, one_hot(2), start=start)
        variance = ((end[1:] - end[0]) ** 2).sum(0)
        first_order = name.startswith(("euler", "dd", "predictor", "adams_bashforth 1", "gradient"))
        bound = {"annealed_langevin": 0.4, "dpm_2 churn": 0.02}.get(name, 0.14 if first_order else 0.01)
        assert (variance / truth.std**2 - 1).abs().max() < bound
        exact_mean = not name.startswith(("adams", "annealed", "euler_maruyama"))
        assert (end[0] - truth.mean).abs().max() < (1e-12 if exact_mean else 0.02)

    def test_rising_times_add_noise(self, some, gaussian):
        """The forward process: the law of x_s becomes that of x_t, and of x_t from a clean x_0."""
        _, make, schedule, shape = some
        truth = gaussian(shape)
        for s in 0.0, 0.3:
            mean, std = truth.moments(schedule, s)
            x_s = mean.expand(3, *shape).clone()
            x_s[1] += std
            end = walk(make(5), truth.denoiser(schedule), x_s, one_hot(2), times=tensor([s, 0.7]))
            mean, std = truth.moments(schedule, 0.7)
            assert_close(end[0], mean, rtol=0, atol=1e-12)
            assert_close(((end[1:] - end[0]) ** 2).sum(0), std**2, rtol=1e-10, atol=0)

    def test_steps_after_added_noise_know_nothing_of_those_before(self, some, randn):
        """Else multistep methods would extrapolate over the jump."""
        _, make, _, shape = some
        times, x_1 = tensor([0.8, 0.6, 0.4, 0.7, 0.5, 0.3]), randn(2, *shape)
        states = list(make(5).trajectory(denoise, x_1, torch.zeros_like, times=times))
        alone = list(make(5).trajectory(denoise, states[3].x_t, torch.zeros_like, times=times[3:]))
        assert_close(states[-1].x_t, alone[-1].x_t, rtol=0, atol=1e-12)


@pytest.mark.most(3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_coefficients_are_float64(dtype, some, randn):
    """A sample of low precision follows the float64 trajectory, to the rounding of its own values.

    On steps of t whose lengths differ much, the third order of Adams and Bashforth magnifies it; so do the long steps
    of Euler and Maruyama, and those of Heun's method where they divide sigma / alpha by much.
    """
    name, make, _, shape = some
    sampler, x_1 = make(10), randn(2, *shape).to(dtype)
    noise, same = seeded(0), seeded(0)
    low = sampler.trajectory(denoise, x_1, lambda x: noise(x.double()).to(dtype))
    high = sampler.trajectory(denoise, x_1.double(), lambda x: same(x).to(dtype).double())
    ulps = {"adams_bashforth 3": 150, "adams_bashforth 4": 150, "euler_maruyama": 150, "heun_ve": 1000}.get(name, 10)
    for a, b in zip(low, high, strict=True):
        assert a.x_t.dtype == dtype
        error = (a.x_t.double() - b.x_t).abs().max() / b.x_t.abs().max().clamp(min=1)
        assert error < ulps * torch.finfo(dtype).eps


@pytest.mark.most(3)
def test_prior(schedule):
    """The noise at t = 1: standard, scaled by sigma_1."""
    like, n = torch.empty(4, 3, 5000, dtype=torch.float64), 60_000
    _, sigma = schedule.alpha_sigma(tensor(1.0))
    x_1 = DDPM(schedule).sample_prior(SeededNoise(range(4)), like)
    assert_close(x_1, sigma * SeededNoise(range(4))(like), rtol=0, atol=1e-12)
    assert_close(x_1.var(), sigma**2, rtol=5 * (2 / n) ** 0.5, atol=0)


@pytest.mark.most(3)
def test_levels(schedule):
    """Floats of float64 precision, and the level of a log-SNR."""
    sampler = Euler(schedule)
    times = torch.linspace(1, 0, 8, dtype=torch.float64)
    for level, t in zip(sampler.noise_levels(times.float().double()), times.float().double(), strict=True):
        alpha, sigma = schedule.alpha_sigma(t)
        assert (level.alpha, level.sigma) == (float(alpha), float(sigma))
        assert 2 * level.half_log_snr == pytest.approx(float(schedule.log_snr(t)), rel=1e-9, abs=1e-12)
    for t in 0.9, 0.4, 0.05:
        level = sampler.level_at(float(schedule.log_snr(tensor(t))) / 2)
        assert float(level.t) == pytest.approx(t, abs=1e-9)
    assert float(sampler.level_at(-200.0).t) == pytest.approx(1.0)
    assert float(sampler.level_at(200.0).t) == pytest.approx(0.0, abs=1e-15)


class TestSeededNoise:
    def test_depends_on_the_seed_only(self):
        x = torch.empty(3, 2, 5)
        first = SeededNoise([1, 2, 3])(x)
        assert torch.equal(SeededNoise([3, 1, 2])(x), first[[2, 0, 1]])
        assert torch.equal(SeededNoise([2])(x[:1]), first[1:2])
        torch.manual_seed(5)
        assert torch.equal(SeededNoise([1, 2, 3])(x), first)

    def test_streams_advance_on_their_own(self):
        noise, alone, x = SeededNoise(["a", "b"]), SeededNoise(["b"]), torch.empty(2, 40)
        draws = torch.stack([noise(x) for _ in range(3)])
        assert torch.equal(draws[:, 1], torch.cat([alone(x[:1]) for _ in range(3)]))
        assert draws.unique().numel() == draws.numel()

    def test_draws_at_once_are_those_one_by_one(self, monkeypatch):
        """In the order of the generator, so that no limit changes a sample."""
        x = torch.empty(2, 4, 8)  # a multiple of 16 numbers, which torch draws together
        noise = SeededNoise(["a", "b"])
        many = [noise(x) for _ in range(SeededNoise.CALLS + 2)]
        assert torch.equal(many[0][0], torch.randn(4, 8, generator=generator("sample", "a")))
        for limit in ("CALLS", "NUMBERS"):
            monkeypatch.setattr(SeededNoise, limit, 1)
            noise = SeededNoise(["a", "b"])
            assert all(torch.equal(noise(x), z) for z in many)

    def test_is_standard_normal(self):
        z = SeededNoise(range(100))(torch.empty(100, 500, dtype=torch.float64)).flatten().sort().values
        n = len(z)
        cdf, rank = torch.special.ndtr(z), torch.arange(1, n + 1).double() / n
        distance = max((rank - cdf).max(), (cdf - rank + 1 / n).max())
        assert n**0.5 * distance < 1.95  # Kolmogorov-Smirnov, exceeded once in a thousand

    def test_refuses_another_batch_size(self):
        with pytest.raises(ValueError, match="got 2 seeds for a batch of 3"):
            SeededNoise([1, 2])(torch.empty(3, 1, 4))


def test_a_rise_of_the_noise_makes_earlier_predictions_worthless(make_schedule):
    """The history of a multistep method begins anew, and with it its memory."""

    class Looks(Euler):
        def step(self, denoise, x_t, t, s, noise):
            seen.append((len(denoise.history), dict(denoise.memory), denoise.steps_left))
            denoise.memory["step"] = len(seen)
            return super().step(denoise, x_t, t, s, noise)

    seen, schedule = [], make_schedule("cosine")
    list(
        Looks(schedule).trajectory(
            denoise, torch.ones(1, 3).double(), seeded(0), times=tensor([0.9, 0.6, 0.3, 0.8, 0.4, 0.0])
        )
    )
    assert seen == [(0, {}, 5), (1, {"step": 1}, 4), (0, {}, 2), (1, {"step": 3}, 1)]


@pytest.mark.parametrize("steps", [0, -3])
@pytest.mark.parametrize("name", SAMPLERS)
def test_refuses_steps(name, steps, make_schedule):
    with pytest.raises(ValueError, match=f"sampler.steps must be >= 1, got {steps}"):
        SAMPLERS[name](make_schedule("linear"), steps)


REFUSED = [
    (DDIM, {"eta": -0.1}, r"sampler\.eta must be in \[0, 1\], got -0.1"),
    (DDIM, {"eta": 1.5}, r"sampler\.eta must be in \[0, 1\], got 1.5"),
    (DPMpp2M, {"eta": -1.0}, r"sampler\.eta must be >= 0, got -1.0"),
    (DPMpp3MSDE, {"eta": -0.2}, r"sampler\.eta must be >= 0, got -0.2"),
    (Heun, {"s_churn": -1.0}, r"sampler\.s_churn must be >= 0"),
    (Heun, {"s_noise": 0.0}, r"sampler\.s_noise must be > 0"),
    (Restart, {"sigma_min": 0.0}, r"0 < sigma_min < sigma_max"),
    (Restart, {"sigma_min": 2.0, "sigma_max": 1.0}, r"got 2.0 and 1.0"),
    (Restart, {"restarts": -1}, r"sampler\.restarts must be >= 0"),
    (Restart, {"steps_per_restart": 0}, r"sampler\.steps_per_restart must be >= 1"),
    (UniPC, {"order": 0}, r"sampler\.order of unipc must be 1, 2 or 3, got 0"),
    (UniPC, {"order": 4}, r"sampler\.order of unipc must be 1, 2 or 3, got 4"),
    (AdamsBashforth, {"order": 0}, r"sampler\.order of adams_bashforth must be 1, 2, 3 or 4, got 0"),
    (AdamsBashforth, {"order": 5}, r"sampler\.order of adams_bashforth must be 1, 2, 3 or 4, got 5"),
    (GradientEstimation, {"gamma": 0.0}, r"sampler\.gamma must be > 0, got 0.0"),
    (DPMppSDE, {"eta": -1.0}, r"sampler\.eta must be >= 0, got -1.0"),
    (PredictorCorrector, {"corrector_steps": -1}, r"sampler\.corrector_steps must be >= 0"),
    (PredictorCorrector, {"snr": 0.0}, r"sampler\.snr must be > 0"),
    (AnnealedLangevin, {"steps_per_level": 0}, r"sampler\.steps_per_level must be >= 1"),
    (AnnealedLangevin, {"step_size": 0.0}, r"sampler\.step_size in \(0, 4\)"),
    (AnnealedLangevin, {"step_size": 4.0}, r"sampler\.step_size in \(0, 4\)"),
]


@pytest.mark.parametrize(("make", "options", "message"), REFUSED)
def test_refuses_options(make, options, message, make_schedule):
    with pytest.raises(ValueError, match=message):
        make(make_schedule("linear"), **options)


@pytest.mark.parametrize("name", ENDS_IN_NOISE)
def test_euler_maruyama_refuses_to_begin_without_signal(name, make_schedule):
    with pytest.raises(ValueError, match=r"the signal is 0 at t = 1; use sampler=ddpm or dpmpp_2m_sde"):
        EulerMaruyama(make_schedule(name))


def test_langevin_diverges_from_the_size_that_is_refused(make_schedule):
    """For data of one point, where the noise is all of the variance: |1 - size / 2| reaches 1."""
    schedule = make_schedule("ve_sde")
    for size, last in ((3.9, 0.01), (1.0, 0.0)):
        sampler = AnnealedLangevin(schedule, 1, step_size=size, steps_per_level=200)
        x = walk(sampler, lambda x, t: torch.zeros_like(x), torch.ones(1, 1).double(), torch.zeros_like)
        assert x.abs() <= last


def test_every_sampler_of_the_configs_is_here():
    """Every sampler and time grid of conf/ is among those that the tests run over."""
    conf = Path(__file__).resolve().parents[2] / "conf"
    for group, known in (("sampler", SAMPLERS), ("time_grid", GRIDS)):
        targets = {path.read_text().split("_target_: ")[1].split()[0] for path in (conf / group).glob("*.yaml")}
        here = {getattr(part, "func", part) for part in known.values()}
        # It begins below t = 1, as that of diffusers does; tests/end_to_end/test_pretrained.py compares the two.
        here |= {leading_time_grid, FlowMapSampler}  # that of flow maps alone: tests/samplers/test_flow_map.py
        assert targets <= {f"{part.__module__}.{part.__qualname__}" for part in here}


@pytest.mark.parametrize(("size", "calls"), [(2, 64), (2**10, 16), (2**14, 1), (2**15, 1)])
def test_noise_is_drawn_ahead_within_bounds(size, calls):
    """Of memory; each call gives the next of the same numbers."""
    noise, x = SeededNoise([3]), torch.empty(1, size)
    first = noise(x)
    assert len(noise.drawn) == calls - 1
    again = torch.randn(calls, size, generator=generator("sample", 3))
    assert torch.equal(first[0], again[0])


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_a_sampler_keeps_is_no_setting(name):
    parameters = inspect.signature(SAMPLERS[name]).parameters
    assert "schedule" in parameters and not [key for key in parameters if key.startswith("_")]


def test_the_rates_of_a_level_outside_the_grid(make_schedule):
    schedule = make_schedule("vp_sde")
    sampler = EulerMaruyama(schedule, steps=3)
    times = torch.tensor([0.123, 0.77], dtype=torch.float64)
    for level, drift, diffusion in zip(
        Euler(schedule).noise_levels(times), *schedule.drift_diffusion(times), strict=True
    ):
        assert sampler.rates(level) == (drift.item(), diffusion.item())

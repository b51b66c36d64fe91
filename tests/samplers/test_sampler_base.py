import pytest
import torch
from torch.testing import assert_close

from src.samplers.ancestral import DDIM, DDPM
from src.samplers.base import SeededNoise

SHAPES = [(1, 7), (3, 5), (1, 4, 4), (3, 4, 6)]
SAMPLERS = {
    "ddpm": DDPM,
    "ddim": DDIM,
    "ddim half": lambda schedule, steps, clip=None: DDIM(schedule, steps, 0.5, clip),
    "ddim ancestral": lambda schedule, steps, clip=None: DDIM(schedule, steps, 1.0, clip),
}


def denoise(x_t, t):
    return torch.tanh(0.8 * x_t + t - 0.3)


@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.parametrize("make", SAMPLERS)
class TestTrajectory:
    def test_states(self, make, data, schedule, randn):
        """steps + 1 of them, on the grid, each with the prediction that led to it; finite on every schedule."""
        calls = []

        def recorded(x_t, t):
            calls.append((x_t, t))
            return denoise(x_t, t)

        sampler, x_1 = SAMPLERS[make](schedule, 8), randn(2, *data)
        states = list(sampler.trajectory(recorded, x_1, SeededNoise(range(2))))
        assert [float(state.t) for state in states] == pytest.approx([1 - i / 8 for i in range(9)], abs=1e-15)
        assert states[0].x_0 is None
        assert torch.equal(states[0].x_t, x_1)
        assert len(calls) == 8
        for before, state, call in zip(states[:-1], states[1:], calls, strict=True):
            assert torch.equal(call[0], before.x_t)
            assert call[1] == before.t
            assert torch.equal(state.x_0, denoise(before.x_t, before.t))
            assert state.x_t.isfinite().all()
        assert_close(states[-1].x_t, states[-1].x_0, rtol=0, atol=1e-12)

    def test_two_halves_are_one_whole(self, make, data, schedule, randn):
        x_1, noise = randn(2, *data), SeededNoise(range(2))
        whole = list(SAMPLERS[make](schedule, 20).trajectory(denoise, x_1, SeededNoise(range(2))))
        walk = SAMPLERS[make](schedule, 20).trajectory(denoise, x_1, noise)
        first = [next(walk) for _ in range(11)]
        second = list(SAMPLERS[make](schedule, 10).trajectory(denoise, first[-1].x_t, noise, start=0.5))
        for state, expected in zip(first + second[1:], whole, strict=True):
            assert_close(state.t, expected.t, rtol=0, atol=1e-15)
            assert_close(state.x_t, expected.x_t, rtol=0, atol=1e-10)

    def test_clip(self, make, data, schedule, randn):
        """Every prediction is bounded, and with it the sample."""
        x_1 = randn(2, *data)
        free = list(SAMPLERS[make](schedule, 8).trajectory(denoise, x_1, SeededNoise(range(2))))
        states = list(SAMPLERS[make](schedule, 8, clip=0.3).trajectory(denoise, x_1, SeededNoise(range(2))))
        assert max(state.x_0.abs().max() for state in free[1:]) > 0.3
        assert torch.equal(states[1].x_0, free[1].x_0.clamp(-0.3, 0.3))
        assert max(state.x_0.abs().max() for state in states[1:]) <= 0.3
        assert states[-1].x_t.abs().max() <= 0.3 + 1e-12

    def test_sample_is_the_end_of_the_trajectory_from_the_prior(self, make, data, schedule):
        sampler, like = SAMPLERS[make](schedule, 8), torch.empty(3, *data)
        noise = SeededNoise(range(3))
        *_, end = sampler.trajectory(denoise, sampler.prior(noise, like), noise)
        assert torch.equal(sampler.sample(denoise, SeededNoise(range(3)), like), end.x_t)

    def test_batches_do_not_matter(self, make, data, schedule):
        """Sample 7 is the same alone, and among others in any order."""
        sampler = SAMPLERS[make](schedule, 8)
        several = sampler.sample(denoise, SeededNoise([3, 7, "x"]), torch.empty(3, *data, dtype=torch.float64))
        alone = sampler.sample(denoise, SeededNoise([7]), torch.empty(1, *data, dtype=torch.float64))
        assert_close(several[1:2], alone, rtol=0, atol=1e-12)
        assert (several[0] != several[1]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", SAMPLERS)
def test_precision_is_that_of_the_sample(make, dtype, make_schedule, randn):
    """Lower precision follows the float64 trajectory, to its own rounding."""
    sampler, x_1 = SAMPLERS[make](make_schedule("cosine"), 10), randn(2, 1, 50).to(dtype)
    g = [torch.Generator().manual_seed(0) for _ in range(2)]
    noises = [lambda x, g=g: torch.randn(x.shape, generator=g, dtype=torch.float64).to(dtype).to(x.dtype) for g in g]
    *_, low = sampler.trajectory(denoise, x_1, noises[0])
    *_, high = sampler.trajectory(denoise, x_1.double(), noises[1])
    assert low.x_t.dtype == dtype
    assert_close(low.x_t.double(), high.x_t, rtol=0, atol=20 * torch.finfo(dtype).eps)


def test_prior(schedule):
    """The noise at t = 1: standard, scaled by sigma_1."""
    like, n = torch.empty(4, 3, 5000, dtype=torch.float64), 60_000
    _, sigma = schedule.alpha_sigma(torch.ones(()).double())
    x_1 = DDPM(schedule).prior(SeededNoise(range(4)), like)
    assert_close(x_1, sigma * SeededNoise(range(4))(like), rtol=0, atol=1e-12)
    assert_close(x_1.var(), sigma**2, rtol=5 * (2 / n) ** 0.5, atol=0)


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

    def test_is_standard_normal(self):
        z = SeededNoise(range(100))(torch.empty(100, 500, dtype=torch.float64)).flatten().sort().values
        n = len(z)
        cdf, rank = torch.special.ndtr(z), torch.arange(1, n + 1).double() / n
        distance = max((rank - cdf).max(), (cdf - rank + 1 / n).max())
        assert n**0.5 * distance < 1.95  # Kolmogorov-Smirnov, exceeded once in a thousand

    def test_refuses_another_batch_size(self):
        with pytest.raises(ValueError, match="2 seeds cannot give noise for a batch of 3"):
            SeededNoise([1, 2])(torch.empty(3, 1, 4))


@pytest.mark.parametrize("steps", [0, -3])
@pytest.mark.parametrize("make", SAMPLERS)
def test_refuses_steps(make, steps, make_schedule):
    with pytest.raises(ValueError, match=f"sampler.steps is at least 1, not {steps}"):
        SAMPLERS[make](make_schedule("linear"), steps)


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_refuses_eta(eta, make_schedule):
    with pytest.raises(ValueError, match=r"sampler\.eta lies in"):
        DDIM(make_schedule("linear"), eta=eta)

import copy
import math

import pytest
import torch
from torch.testing import assert_close

from src.diffusion.beta_schedules import CosineSchedule
from src.diffusion.discrete_schedules import AdditiveSchedule
from src.diffusion.schedules import FlowSchedule
from src.diffusion.time_samplers import (
    DiscreteUniformTimeSampler,
    FixedTimeSampler,
    LogitNormalTimeSampler,
    LogNormalTimeSampler,
    LossSecondMomentTimeSampler,
    StratifiedTimeSampler,
    TimeSampler,
    UniformTimeSampler,
    stratified_uniform,
)
from tests.diffusion.expected import ALL, ONE

pytestmark = pytest.mark.strength(1)

SCHEDULE = CosineSchedule()
EVERY = [
    UniformTimeSampler,
    StratifiedTimeSampler,
    DiscreteUniformTimeSampler,
    LogNormalTimeSampler,
    LogitNormalTimeSampler,
    LossSecondMomentTimeSampler,
]
N = 20_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(times, n=N, seed=0, schedule=SCHEDULE):
    return times(n, generator(seed), schedule)


def kolmogorov_smirnov(values, cdf):
    """The largest distance between the empirical distribution and the true one, in units of 1 / sqrt(n).

    Above 1.95 once in a thousand times.
    """
    u = cdf(values.sort().values)
    n = len(u)
    rank = torch.arange(1, n + 1, dtype=torch.float64) / n
    return math.sqrt(n) * max((rank - u).max(), (u - rank + 1 / n).max())


def uniform(low, high=1.0):
    return lambda t: (t - low) / (high - low)


def warm(bins=8, history_per_term=3, **kwargs):
    """One that has seen losses around 1 + 3 j in bin j."""
    times, g = LossSecondMomentTimeSampler(bins, history_per_term, **kwargs), generator(7)
    middles = times.t_min + (1 - times.t_min) * (torch.arange(bins, dtype=torch.float64) + 0.5) / bins
    for _ in range(history_per_term):
        times.update_with_losses(middles, 1 + 3 * torch.arange(bins) + torch.rand(bins, generator=g))
    return times


# ---- uniform ----


@pytest.mark.parametrize("t", [0.3, 1.0])
def test_one_time(t):
    """In training as in validation; others are validated at evenly spread ones."""
    times = FixedTimeSampler(t)
    for drawn in (times, times.for_validation()):
        assert drawn(5, generator(), SCHEDULE).tolist() == [t] * 5
    spread = UniformTimeSampler().for_validation()(4, generator(), SCHEDULE).sort().values
    assert_close(spread.diff(), torch.full((3,), 0.25, dtype=torch.float64), atol=1e-4, rtol=0)
    for wrong in (0.0, -1.0, 1.5):
        with pytest.raises(ValueError, match=r"time_sampler\.t must be in"):
            FixedTimeSampler(wrong)


@pytest.mark.parametrize("make", [UniformTimeSampler, StratifiedTimeSampler])
@pytest.mark.parametrize("t_min", [1e-5, 0.25])
def test_uniform(make, t_min):
    t = draw(make(t_min))
    assert t.dtype == torch.float64
    assert t_min <= t.min() <= t_min + 1e-3
    assert 1 - 1e-3 <= t.max() <= 1
    assert kolmogorov_smirnov(t, uniform(t_min)) < 1.95


def test_each_stratified_time_is_uniform():
    draws = torch.stack([draw(StratifiedTimeSampler(1e-9), 5, seed) for seed in range(2000)])
    for column in draws.T:
        assert kolmogorov_smirnov(column, uniform(0)) < 1.95


@pytest.mark.parametrize("n", [1, 2, 7, 128])
@pytest.mark.parametrize("seed", range(20))
def test_stratified_covers_each_stratum_once(n, seed):
    t = draw(StratifiedTimeSampler(0.1), n, seed).sort().values
    stratum = (t - 0.1) / 0.9 * n
    assert torch.equal(stratum.floor(), torch.arange(n).double())
    assert_close(t.diff(), torch.full((n - 1,), 0.9 / n).double(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("seed", range(10))
def test_stratified_across_ranks(ranks, seed):
    """Each process takes its slice of the global batch: together they cover every stratum once, and so does each
    alone the wider strata of its share."""
    t = draw(StratifiedTimeSampler(1e-9), 32, seed)
    slices = [t[rank::ranks] for rank in range(ranks)]
    assert torch.equal((torch.cat(slices) * 32).floor().sort().values, torch.arange(32).double())
    for part in slices:
        n = len(part)
        assert torch.equal((part * n).floor().sort().values, torch.arange(n).double())


@pytest.mark.parametrize(
    ("make", "variance"), [(UniformTimeSampler, 1 / 12 / 64), (StratifiedTimeSampler, 1 / 12 / 64**2)]
)
def test_variance_of_the_mean_of_a_batch(make, variance):
    """1 / (12 n) for independent times, 1 / (12 n^2) for stratified ones; five standard errors of the estimate."""
    means = torch.stack([draw(make(), 64, seed).mean() for seed in range(1000)])
    assert_close(means.var(), torch.tensor(variance).double(), rtol=5 * (2 / 1000) ** 0.5, atol=0)


@pytest.mark.parametrize("steps", [1, 10, 1000])
def test_discrete_lies_on_the_nodes(steps):
    t = draw(DiscreteUniformTimeSampler(steps))
    k = (t * steps).round()
    assert torch.equal(t, k / steps)
    counts = torch.bincount(k.long(), minlength=steps + 1)
    assert counts[0] == 0
    assert counts.sum() == N
    # Chi-squared with steps - 1 degrees of freedom: mean steps - 1, variance twice that.
    chi_2 = ((counts[1:] - N / steps) ** 2 / (N / steps)).sum()
    assert abs(chi_2 - (steps - 1)) <= 4 * math.sqrt(2 * (steps - 1))


def test_discrete_times_have_the_values_of_the_table():
    """Bit for bit those of k / T."""
    t = draw(DiscreteUniformTimeSampler(1000), 500)
    table = torch.arange(1001, dtype=torch.float64) / 1000
    assert torch.equal(SCHEDULE.log_snr(t), SCHEDULE.log_snr(table)[(t * 1000).round().long()])


# ---- normal in other scales ----


@pytest.mark.parametrize("name", ["ve_sde", "edm", "vp_sde", "cosine", "flow", "sub_vp_sde", "shifted"])
@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (0.3, 0.5)])
def test_log_normal_noise_levels(name, mean, std):
    """log(sigma / alpha) is normal, whatever the schedule."""
    schedule = ALL[name]()
    alpha, sigma = schedule.alpha_sigma(draw(LogNormalTimeSampler(mean, std, t_min=1e-9), schedule=schedule))
    z = ((sigma / alpha).log() - mean) / std
    assert kolmogorov_smirnov(z, torch.special.ndtr) < 1.95


@pytest.mark.parametrize("name", ALL)
def test_log_normal_levels_beyond_the_schedule_are_taken_at_its_ends(name):
    schedule, t_min = ALL[name](), 0.01
    t = draw(LogNormalTimeSampler(-1.2, 1.2, t_min), schedule=schedule)
    assert t_min <= t.min() and t.max() <= 1
    for end, side in ((t_min, -1), (1.0, 1)):
        z = side * (-schedule.log_snr(end * ONE) / 2 + 1.2) / 1.2
        share = float(torch.special.ndtr(-z))
        assert abs((t == end).double().mean() - share) <= 5 * (share * (1 - share) / N) ** 0.5 + 1e-9


def test_log_normal_on_few_noise_levels():
    """Most of the levels lie beyond a process that never hides the data."""
    t = draw(LogNormalTimeSampler(0.0, 1.0), schedule=AdditiveSchedule())
    assert (t == 1).double().mean() > 0.8


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.8, 0.4)])
def test_logit_normal(mean, std):
    z = (torch.logit(draw(LogitNormalTimeSampler(mean, std))) - mean) / std
    assert kolmogorov_smirnov(z, torch.special.ndtr) < 1.95


# ---- loss-aware ----


@pytest.mark.parametrize("t_min", [1e-5, 0.3])
def test_loss_second_moment_is_uniform_at_first(t_min):
    times = LossSecondMomentTimeSampler(bins=8, history_per_term=3, t_min=t_min)
    middles = t_min + (1 - t_min) * (torch.arange(8).double() + 0.5) / 8
    assert kolmogorov_smirnov(draw(times), uniform(t_min)) < 1.95
    for _ in range(2):
        times.update_with_losses(middles, torch.arange(8.0))
    times.update_with_losses(middles[:-1], torch.arange(7.0))  # one bin still lacks a loss
    assert_close(times.probabilities(), torch.full((8,), 1 / 8).double())
    assert torch.equal(times.importance_weights(middles), torch.ones(8).double())
    times.update_with_losses(middles[-1:], torch.tensor([7.0]))
    assert times.probabilities()[-1] > 0.2


@pytest.mark.parametrize("share", [0.001, 0.2])
def test_loss_second_moment_follows_the_root_mean_square(share):
    times, history = LossSecondMomentTimeSampler(3, 2, uniform_prob=share), [[3.0, 4.0], [0.0, 1.0], [-2.0, 2.0]]
    for k in range(2):
        times.update_with_losses(torch.tensor([0.1, 0.5, 0.9]).double(), torch.tensor([h[k] for h in history]))
    root = torch.tensor([12.5**0.5, 0.5**0.5, 2.0], dtype=torch.float64)
    assert_close(times.probabilities(), (1 - share) * root / root.sum() + share / 3, rtol=1e-6, atol=0)


def test_loss_second_moment_on_a_device_reads_copies():
    """The meta device stands in for it: its buffers cannot be read. What is loaded replaces the copies."""
    there, here, t = warm(), warm(), torch.tensor([0.2, 0.2, 0.7], dtype=torch.float64)
    there.copies = there.losses.clone(), there.counts.clone()
    there.to("meta")
    for times in (there, here):
        times.update_with_losses(t, torch.tensor([5.0, 7.0, 9.0]))
    assert torch.equal(there.probabilities(), here.probabilities())
    assert torch.equal(there.importance_weights(t), here.importance_weights(t))
    there.to_empty(device="cpu").load_state_dict(warm().state_dict())
    assert there.copies is None and torch.equal(there.probabilities(), warm().probabilities())


def test_loss_second_moment_forgets_what_is_older_than_its_history():
    times, t = LossSecondMomentTimeSampler(2, 2, uniform_prob=1e-9), torch.tensor([0.2, 0.7], dtype=torch.float64)
    for losses in ([100.0, 100.0], [1.0, 3.0], [1.0, 3.0]):
        times.update_with_losses(t, torch.tensor(losses))
    assert_close(times.probabilities(), torch.tensor([0.25, 0.75]).double(), rtol=1e-6, atol=0)
    times.update_with_losses(t[:1].expand(2), torch.tensor([3.0, 3.0]))  # two of one batch in one bin
    assert_close(times.probabilities(), torch.tensor([0.5, 0.5]).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("t_min", [1e-5, 0.3])
def test_loss_second_moment_draws_from_its_probabilities(t_min):
    times = warm(t_min=t_min)
    t, p = draw(times), times.probabilities()
    counts = torch.bincount(times.bin(t), minlength=8)
    # Chi-squared with 7 degrees of freedom: above 26 five times in ten thousand.
    assert ((counts - N * p) ** 2 / (N * p)).sum() < 26
    edges = t_min + (1 - t_min) * torch.arange(9, dtype=torch.float64) / 8
    for j in range(8):
        inside = t[(t >= edges[j]) & (t < edges[j + 1])]
        assert len(inside) == counts[j]
        assert kolmogorov_smirnov(inside, uniform(edges[j], edges[j + 1])) < 1.95


@pytest.mark.parametrize("t_min", [1e-5, 0.3])
def test_loss_second_moment_mean_is_that_over_uniform_times(t_min):
    """Exactly: p w is that of a uniform draw in every bin. And of a smooth loss, in samples, to 5 standard errors."""
    times = warm(t_min=t_min)
    middles = t_min + (1 - t_min) * (torch.arange(8, dtype=torch.float64) + 0.5) / 8
    assert_close(times.probabilities() * times.importance_weights(middles), torch.full((8,), 1 / 8).double())
    t = draw(times)
    weighted = times.importance_weights(t) * t**3
    true = (1 - t_min**4) / 4 / (1 - t_min)
    assert abs(weighted.mean() - true) < 5 * weighted.std() / N**0.5
    # and for losses like those that it has seen, the weighted ones vary less than with uniform times
    like, u = lambda t: 1 + 3 * times.bin(t), draw(UniformTimeSampler(t_min))
    assert (times.importance_weights(t) * like(t)).var() < 0.05 * like(u).double().var()


def test_state_of_loss_second_moment():
    """It continues from its state as if nothing had happened."""
    times, other = warm(), LossSecondMomentTimeSampler(8, 3)
    other.load_state_dict(copy.deepcopy(times.state_dict()))
    for step in range(5):
        t = draw(times, 16, step)
        assert torch.equal(t, draw(other, 16, step))
        assert torch.equal(times.importance_weights(t), other.importance_weights(t))
        for each in times, other:
            each.update_with_losses(t, t.float() ** 2)
    assert torch.equal(times.probabilities(), other.probabilities())
    assert not torch.equal(times.probabilities(), warm().probabilities())


# ---- every one ----


@pytest.mark.parametrize("make", [*EVERY, warm])
def test_deterministic(make):
    times = make()
    torch.manual_seed(1)
    first = draw(times, 16, 3)
    torch.manual_seed(2)
    assert torch.equal(first, draw(times, 16, 3))
    assert not torch.equal(first, draw(times, 16, 4))
    g = generator(3)
    assert not torch.equal(times(16, g, SCHEDULE), times(16, g, SCHEDULE))


@pytest.mark.parametrize("make", [*EVERY, warm])
@pytest.mark.parametrize("schedule", [SCHEDULE, FlowSchedule(), AdditiveSchedule()])
def test_range_and_precision(make, schedule):
    t = draw(make(), 4000, schedule=schedule)
    assert t.dtype == torch.float64 and t.shape == (4000,)
    assert (t >= 1e-5).all() and (t <= 1).all()


@pytest.mark.parametrize("make", EVERY[:-1])
def test_others_weigh_all_times_alike(make):
    times = make()
    t = draw(times, 16)
    times.update_with_losses(t, 100 * t)
    assert torch.equal(times.importance_weights(t), torch.ones(16).double())
    assert type(times).update_with_losses is TimeSampler.update_with_losses


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UniformTimeSampler(0.0), r"t_min must be in \(0, 1\), got 0.0"),
        (lambda: StratifiedTimeSampler(-0.1), "got -0.1"),
        (lambda: LogNormalTimeSampler(t_min=0.0), r"t_min must be in \(0, 1\), got 0.0"),
        (lambda: LogitNormalTimeSampler(t_min=0.0), r"t_min must be in \(0, 1\), got 0.0"),
        (lambda: LossSecondMomentTimeSampler(t_min=0.0), r"t_min must be in \(0, 1\), got 0.0"),
        (lambda: UniformTimeSampler(1.0), "got 1.0"),
        (lambda: DiscreteUniformTimeSampler(0), "time_sampler.steps must be >= 1, got 0"),
        (lambda: LogNormalTimeSampler(std=0.0), "time_sampler.std must be > 0, got 0.0"),
        (lambda: LogitNormalTimeSampler(std=-1.0), "time_sampler.std must be > 0, got -1.0"),
        (lambda: LossSecondMomentTimeSampler(bins=0), "history_per_term must be >= 1"),
        (lambda: LossSecondMomentTimeSampler(history_per_term=0), "history_per_term must be >= 1"),
        (lambda: LossSecondMomentTimeSampler(uniform_prob=0.0), r"uniform_prob in \(0, 1\]"),
        (lambda: LossSecondMomentTimeSampler(uniform_prob=1.5), r"uniform_prob in \(0, 1\]"),
    ],
)  # fmt: skip
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("times", "normal"),
    [
        (LogitNormalTimeSampler(0.3, 0.7), lambda t: (torch.logit(t) - 0.3) / 0.7),
        (LogNormalTimeSampler(-0.4, 0.9), lambda t: (-SCHEDULE.log_snr(t) / 2 + 0.4) / 0.9),
    ],
)
def test_a_batch_covers_a_normal_distribution_evenly(times, normal):
    u = torch.special.ndtr(normal(draw(times, n=16))).sort().values
    assert_close(u.diff(), torch.full((15,), 1 / 16, dtype=torch.float64), atol=2e-3, rtol=0)
    assert not torch.equal(draw(times, n=16), draw(times, n=16, seed=1))


def test_normal_levels_grow_with_their_number():
    """The larger the uniform number, the more noise."""
    u = stratified_uniform(16, generator())
    for times, normal in ((LogNormalTimeSampler(0.0, 1.0), lambda t: -SCHEDULE.log_snr(t) / 2),
                          (LogitNormalTimeSampler(0.0, 1.0), torch.logit)):  # fmt: skip
        assert_close(torch.special.ndtr(normal(draw(times, n=16))), u, atol=2e-3, rtol=0)


def test_loss_second_moment_leaves_out_losses_that_are_not_finite():
    times = LossSecondMomentTimeSampler(2, 2)
    times.update_with_losses(torch.tensor([0.1, 0.9, 0.2], dtype=torch.float64), torch.tensor([math.inf, 3.0, 2.0]))
    assert times.counts.tolist() == [1, 1] and times.losses[:, 0].tolist() == [2.0, 3.0]

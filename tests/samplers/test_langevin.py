r"""Langevin dynamics and the predictor-corrector leave the law of x_t as it is, up to a known effect of their steps.

On Gaussian data, where x_t has the variance V, a step is :math:`x - \mu \leftarrow c (x - \mu) + \sqrt{\eta} z` with
:math:`c = 1 - \eta / 2V` and :math:`\eta = \text{step\_size}\, \sigma^2`. It keeps the variance
:math:`\eta / (1 - c^2) = V / (1 - \eta / 4V)`.
"""

import itertools

import pytest
import torch
from torch.testing import assert_close

from src.samplers.base import DenoiserMemory
from src.samplers.clipping import NoClip
from src.samplers.sde import AnnealedLangevin, PredictorCorrector, PredictorCorrectorALD, langevin_step
from tests.samplers.registry import SHAPES, equal_in_log_snr, one_hot, seeded, tensor, walk

pytestmark = pytest.mark.strength(1)


def coefficients(step, like):
    """c, d and e of the affine map x -> c x + d + e z that a function of (x, noise) is, element by element."""
    x = torch.stack([torch.zeros_like(like), torch.ones_like(like), torch.zeros_like(like)])
    z = torch.stack([torch.zeros_like(like), torch.zeros_like(like), torch.ones_like(like)])
    d, c, e = step(x, lambda _: z)
    return c - d, d, e - d


@pytest.mark.most(3)
@pytest.mark.parametrize("data", SHAPES)
def test_langevin_keeps_a_known_variance(data, schedule, gaussian):
    truth = gaussian(data)
    denoise = DenoiserMemory(truth.denoiser(schedule), NoClip())
    for t, size in itertools.product([0.2, 0.5, 0.9], [0.01, 0.2, 1.5]):
        (level,), (mean, std) = AnnealedLangevin(schedule).noise_levels(tensor([t])), truth.moments(schedule, t)
        c, d, e = coefficients(lambda x, noise: langevin_step(denoise, x, level, size, noise), truth.mean)  # noqa: B023
        eta = size * level.sigma**2
        assert_close(c, 1 - eta / (2 * std**2), rtol=0, atol=1e-12)
        assert_close(c * mean + d, mean, rtol=0, atol=1e-12)
        assert_close(e, torch.full_like(e, eta**0.5), rtol=1e-12, atol=0)
        assert_close(e**2 / (1 - c**2), std**2 / (1 - eta / (4 * std**2)), rtol=1e-9, atol=0)


def test_that_variance_is_right_in_the_limit_of_small_steps(schedule, gaussian):
    """The error is proportional to the step size."""
    truth = gaussian((5,))
    (level,) = AnnealedLangevin(schedule).noise_levels(tensor([0.6]))
    denoise, (_, std) = DenoiserMemory(truth.denoiser(schedule), NoClip()), truth.moments(schedule, 0.6)
    errors = []
    for size in (0.02, 0.01):
        c, _, e = coefficients(lambda x, noise, size=size: langevin_step(denoise, x, level, size, noise), truth.mean)
        errors.append((e**2 / (1 - c**2) / std**2 - 1).max())
    assert errors[1] < 0.01 / 4 * 1.01
    assert_close(errors[0] / errors[1], tensor(2.0), rtol=0.01, atol=0)


def test_annealed_langevin_is_langevin_at_each_level(schedule, gaussian, randn):
    """Where alpha > sigma it keeps x / alpha from one level to the next."""
    truth, size, repeats = gaussian((3, 5)), 0.3, 4
    sampler = AnnealedLangevin(schedule, 6, step_size=size, steps_per_level=repeats)
    x, noise = randn(2, 3, 5), seeded(0)
    end = walk(sampler, truth.denoiser(schedule), x, seeded(0))
    predict = truth.denoiser(schedule)
    for level, s in itertools.pairwise(sampler.noise_levels(sampler.times())):
        for _ in range(repeats):
            score = (level.alpha * predict(x, level.t) - x) / level.sigma**2
            eta = size * level.sigma**2
            x = x + eta / 2 * score + eta**0.5 * noise(x)
        last = x
        x = x * s.alpha / level.alpha if level.alpha > level.sigma else x
    assert_close(end, predict(last, level.t), rtol=1e-10, atol=1e-10)


def states(sampler, truth, times):
    """Mean and variance of x_s at every level, begun at the exact law; see test_laws.py."""
    mean, std = truth.moments(sampler.schedule, float(times[0]))
    x = mean.expand(2 + len(times) * (1 + sampler.corrector_steps), *mean.shape).clone()
    x[1] += std
    for state in sampler.trajectory(truth.denoiser(sampler.schedule), x, one_hot(2), times=times):
        yield state.t, state.x_t[0], ((state.x_t[1:] - state.x_t[0]) ** 2).sum(0)


@pytest.mark.parametrize(("corrector_steps", "snr"), [(0, 0.16), (1, 0.05), (1, 0.16), (3, 0.16)])
def test_law_of_the_predictor_corrector(snr, corrector_steps, schedule, gaussian):
    """At every level the closed form: the posterior of the forward process, then Langevin steps."""
    truth = gaussian((5,))
    walked = list(states(
        PredictorCorrectorALD(schedule, 12, corrector_steps=corrector_steps, snr=snr), truth,
        equal_in_log_snr(schedule, 12),
    ))  # fmt: skip
    (_, _, expected), *_ = walked
    for (t, _, _), (s, mean, variance) in itertools.pairwise(walked):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.alpha_sigma(t), schedule.alpha_sigma(s)
        alpha_ts, sigma_ts = schedule.transition(s, t)
        (_, std_t), (mean_s, std_s) = truth.moments(schedule, float(t)), truth.moments(schedule, float(s))
        x_0_by_x_t = alpha_t * truth.std**2 / std_t**2
        c = alpha_ts * (sigma_s / sigma_t) ** 2 + alpha_s * (sigma_ts / sigma_t) ** 2 * x_0_by_x_t
        expected = c**2 * expected + (sigma_s * sigma_ts / sigma_t) ** 2
        for _ in range(corrector_steps):
            eta = 4 * snr**2 * sigma_s**2
            expected = (1 - eta / (2 * std_s**2)) ** 2 * expected + eta
        assert_close(mean, mean_s, rtol=0, atol=1e-10)
        assert_close(variance, expected, rtol=1e-9, atol=0)


@pytest.mark.most(3)
def test_the_predictor_corrector_keeps_the_law(schedule, gaussian):
    """In the limit of small steps of both kinds: a quarter of each leaves a quarter of the error of the variance."""
    truth, errors = gaussian((5,)), []
    for steps, snr in ((20, 0.1), (80, 0.05)):
        times = equal_in_log_snr(schedule, steps)
        *_, (s, _, variance) = states(PredictorCorrectorALD(schedule, steps, snr=snr), truth, times)
        errors.append(float((variance / truth.moments(schedule, float(s))[1] ** 2 - 1).abs().max()))
    assert errors[1] < 0.3 * errors[0]
    assert errors[1] < 0.1


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("schedule_name", ["cosine", "flow", "ve_sde"])
def test_corrections_of_a_given_snr_keep_the_law_of_many_elements(schedule_name, make_schedule, gaussian, randn):
    """Where norms hardly vary. Each sample's step is of its own norms, whatever else is in the batch."""
    schedule, truth, snr = make_schedule(schedule_name), gaussian((1, 1000)), 0.05
    start, denoise = truth.moments(schedule, 0.5), truth.denoiser(schedule)
    x = start[0] + start[1] * randn(200, 1, 1000)
    sampler = PredictorCorrector(schedule, 1, snr=snr, corrector_steps=1)
    times = torch.tensor([0.5, 0.4999999], dtype=torch.float64)  # next to no step, so that the correction is alone
    z = randn(200, 1, 1000)
    moved = walk(sampler, denoise, x, lambda like: z[: len(like)], times=times)
    variance = ((moved - start[0]) / start[1]).square().mean()
    assert variance.item() == pytest.approx(1, abs=5 * (2 / moved.numel()) ** 0.5 + snr**4)
    # the ratio of what the score and the noise of the step do is r
    (level,) = sampler.noise_levels(times[1:])
    pull = level.alpha * denoise(x, level.t) - x
    size = sampler.step_size(pull / level.sigma, z)
    ratio = (size / 2 * pull).flatten(1).norm(dim=1) / (size**0.5 * level.sigma * z).flatten(1).norm(dim=1)
    assert_close(ratio, torch.full_like(ratio, snr), rtol=1e-9, atol=0)
    alone = walk(sampler, denoise, x[:1], lambda like: z[: len(like)], times=times)
    assert_close(alone[0], moved[0], rtol=0, atol=1e-12)


@pytest.mark.most(1)
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("schedule_name", ["cosine", "sub_vp_sde"])
@pytest.mark.parametrize("kind", ["langevin", "ald"])
def test_a_mixture_stays(kind, schedule_name, make_schedule, mixture, randn):
    """The distribution of 20,000 samples that begin at exact x_t stays within the bounds of chance.

    That is the distance of Kolmogorov and Smirnov that one of a thousand sets of samples exceeds; the effect of these
    steps is below half of it.
    """
    schedule, truth, n = make_schedule(schedule_name), mixture((2,)), 20_000
    x, noise, denoise = truth.draw(n, randn), seeded(0), truth.denoiser(schedule)
    x = schedule.add_noise(x, tensor(0.7), noise(x))
    if kind == "langevin":
        s, predict = 0.7, DenoiserMemory(denoise, NoClip())
        (level,) = AnnealedLangevin(schedule).noise_levels(tensor([s]))
        for _ in range(40):
            x = langevin_step(predict, x, level, 0.05, noise)
    else:
        s = 0.4
        sampler = PredictorCorrectorALD(schedule, 150, snr=0.1)
        x = walk(sampler, denoise, x, noise, times=equal_in_log_snr(schedule, 150, 0.7, s))
    y = truth.along(x).sort().values
    distance = (truth.cdf(schedule, y, s) - (torch.arange(n) + 0.5) / n).abs().max()
    assert distance < 1.95 / n**0.5

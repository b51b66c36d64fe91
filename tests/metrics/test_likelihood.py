"""Bits per dimension of data whose density is known."""

import math

import pytest
import torch
from torch.distributions import Normal

from src.diffusion.conditions import Clusters
from src.diffusion.schedules import FlowSchedule
from src.metrics.likelihood import Likelihood

FINE = {"sigma_min": 1e-3, "tolerance": 1e-5}


def gaussian(mean, std, schedule):
    def predict(x_t, t, cond):
        alpha, sigma = (v.to(x_t) for v in schedule.alpha_sigma(t))
        return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x_t - alpha * mean)

    return predict


@pytest.mark.most(1)
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("shape", "probes"), [((2,), 1), ((1, 6), 0), ((3, 5), 1), ((1, 9), 2)])
def test_gaussian_data(context, randn, shape, probes):
    """The mean of -log2 p over the same data; one probe is exact, since each element is denoised on its own."""
    schedule, x = FlowSchedule(), (0.3 + 0.5 * randn(40, *shape)).float()
    made = context(x[:2], x, x, predict=gaussian(0.3, 0.5, schedule), schedule=schedule)
    found = Likelihood(40, probes, batch_size=16, **FINE)(made).values["bits_per_dim"]
    bits = -Normal(0.3, 0.5).log_prob(x).flatten(1).mean(1) / math.log(2)
    assert found.value == pytest.approx(bits.mean().item(), abs=3e-3)
    assert found.high - found.value == pytest.approx(1.96 * bits.std().item() / math.sqrt(40), rel=0.02)


@pytest.mark.usefixtures("unchecked")
def test_a_true_density_is_the_floor(context, randn):
    schedule, x = FlowSchedule(), randn(30, 2).float()
    made = context(
        x[:2], x, x, predict=gaussian(0.0, 1.0, schedule), schedule=schedule,
        log_density=lambda x: Normal(0.0, 1.0).log_prob(x).sum(1),
    )  # fmt: skip
    section = Likelihood(30, **FINE)(made)
    value = section.values["bits_per_dim"]
    assert value.value == pytest.approx(value.real_baseline, abs=3e-3)
    worse = context(
        x[:2], x, x, predict=gaussian(0.0, 2.0, schedule), schedule=schedule, log_density=made.data.log_density
    )
    # KL of N(0, 1) from N(0, 4), per dimension, for data of the same second moment.
    second = x.square().mean().item()
    expected = (math.log(2) + second * (1 / 8 - 1 / 2)) / math.log(2)
    found = Likelihood(30, **FINE)(worse).values
    assert found["bits_per_dim"].value - found["bits_per_dim"].real_baseline == pytest.approx(expected, abs=5e-3)
    excess = found["bits_above_truth"]
    spread = 3 / 8 / math.log(2) * x.square().mean(1).std().item()
    assert excess.value == pytest.approx(expected, abs=5e-3)
    assert excess.high - excess.value == pytest.approx(1.96 * spread / math.sqrt(30), rel=0.02)


def test_levels_of_images_cost_their_entropy(context, randn):
    """Rounded to 32 levels: the entropy of these, and hardly more."""
    schedule, bins, std = FlowSchedule(), 32, 0.25
    levels = ((std * randn(300, 1, 2, 2)).clamp(-1, 1) + 1) / 2 * (bins - 1)
    x = levels.round() / (bins - 1)
    spread = math.sqrt(std**2 + (2 / (bins - 1)) ** 2 / 12)
    made = context(x[:2], x, x, predict=gaussian(0.0, spread, schedule), schedule=schedule)
    found = Likelihood(300, 1, bins, sigma_min=1e-2, tolerance=1e-4, batch_size=300)(made).values["bits_per_dim"]
    edges = (2 * torch.arange(bins).double() - (bins - 1)) / (bins - 1)
    half = 1 / (bins - 1)
    p = Normal(0.0, std).cdf(edges + half) - Normal(0.0, std).cdf(edges - half)
    entropy = -(p * p.log2()).sum().item()
    assert found.value == pytest.approx(entropy, abs=0.06) and found.low < entropy < found.high + 0.02


@pytest.mark.usefixtures("unchecked")
def test_few_dimensions_need_no_probes(context, randn):
    """The denoiser turns the plane, of which a probe sees something, but which does not stretch it."""
    schedule, x = FlowSchedule(), randn(30, 2).float()
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    straight = gaussian(0.0, 1.0, schedule)

    def predict(x_t, t, cond):
        return straight(x_t, t, cond) + 0.1 * x_t @ turn.to(x_t)

    found = Likelihood(30, 1, **FINE)(context(x[:2], x, x, predict=predict, schedule=schedule)).values["bits_per_dim"]
    bits = -Normal(0.0, 1.0).log_prob(x).mean(1) / math.log(2)
    assert found.value == pytest.approx(bits.mean().item(), abs=5e-3)
    assert found.high - found.value == pytest.approx(1.96 * bits.std().item() / math.sqrt(30), rel=0.03)


def test_the_evaluations_are_counted_and_labels_given(context, randn):
    schedule, calls = FlowSchedule(), []
    x, label = randn(20, 2).float(), torch.arange(20) % 2

    def predict(x_t, t, cond):
        calls.append(cond)
        return gaussian(0.0, 1.0, schedule)(x_t, t, cond)

    made = context(x[:2], (x, label), (x, label), predict=predict, schedule=schedule)
    nfe = Likelihood(20, tolerance=1e-3, batch_size=20)(made).values["likelihood_nfe"].value
    assert nfe == len(calls) > 10 and all(sorted(cond.tolist()) == [0] * 10 + [1] * 10 for cond in calls)


def test_refuses_a_plain_denoiser(context, rand):
    time_sampler = {"_target_": "src.diffusion.time_samplers.FixedTimeSampler", "t": 1.0}
    made = context(rand(2, 1, 8), rand(9, 1, 8), rand(9, 1, 8), time_sampler=time_sampler)
    assert "single noise level" in Likelihood().why_not_applicable(made)
    assert Likelihood().why_not_applicable(context(rand(2, 2), rand(9, 2), rand(9, 2))) is None


@pytest.mark.usefixtures("unchecked")
def test_the_cluster_has_to_be_stored_too(context, randn):
    """Two that lie far apart, three quarters and a quarter of the data: the density of the mixture."""
    schedule, means, shares = FlowSchedule(), torch.tensor([[-3.0, 0.0], [3.0, 1.0]]), torch.tensor([0.75, 0.25])
    which = torch.arange(40) % 4 // 3
    x = (means[which] + 0.4 * randn(40, 2)).float()

    def predict(x_t, t, cond):
        return gaussian(means.to(x_t)[cond], 0.4, schedule)(x_t, t, cond)

    def log_density(x):
        return ((Normal(means, 0.4).log_prob(x[:, None]).sum(2)) + shares.log()).logsumexp(1)

    made = context(x[:2], x, x, predict=predict, schedule=schedule, log_density=log_density)
    clusters = Clusters(2, 2)
    clusters.centers.copy_(means)
    clusters.weights.copy_(shares)
    made.pipeline.denoiser.condition = clusters
    value = Likelihood(40, **FINE)(made).values["bits_per_dim"]
    assert value.value == pytest.approx(value.real_baseline, abs=3e-3)

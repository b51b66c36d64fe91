"""Errors by noise level of denoisers whose errors are known, and what they are said to have done with their data."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.testing import assert_close

from src.diffusion import beta_schedules, discrete_schedules
from src.diffusion.conditions import Condition, NoCondition
from src.diffusion.ideal import ideal_denoiser
from src.diffusion.schedules import FlowSchedule
from src.metrics.denoising import Denoising, denoise_levels, squared_errors, trained_levels
from src.metrics.generalization import GeneralizationGap, MeanWithMargin
from tests.fixtures import SCHEDULES

pytestmark = pytest.mark.strength(1)

LEVELS = [4.0, 1.0, 0.0, -2.0]


def wiener(schedule, std=1.0, mean=0.0):
    """The best denoiser of N(mean, std²)."""

    def predict(x_t, t, cond):
        alpha, sigma = (v.to(x_t) for v in schedule.alpha_sigma(t))
        return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x_t - alpha * mean)

    return predict


def memory(schedule, train):
    """The ideal denoiser of the training data, in the units of the model."""

    def predict(x_t, t, cond):
        alpha, sigma = (v.expand(len(x_t)) for v in schedule.alpha_sigma(t))
        return ideal_denoiser(x_t, alpha, sigma, [(train.to(x_t), None)])

    return predict


@pytest.mark.parametrize("make", [beta_schedules.CosineSchedule, FlowSchedule, discrete_schedules.EDMSchedule])
@pytest.mark.parametrize("shape", [(2,), (1, 30), (1, 8, 8)])
def test_the_error_of_gaussian_data(undrawn, context, randn, make, shape):
    """1 / (1 / s² + SNR) in every dimension, with the best denoiser; of images in their own units a quarter of that."""
    schedule, std, image = make(), 0.2, len(shape) == 3
    x = std * randn(3000, *shape)
    x = (x + 1) / 2 if image else x
    made = context(x[:4], x[:1000], x[1000:], predict=wiener(schedule, std), schedule=schedule)
    found = Denoising(n=1000, log_snr=LEVELS)(made)
    expected = torch.tensor([1 / (1 / std**2 + math.exp(v)) for v in LEVELS]).double() / (4 if image else 1)
    tolerance = 5 * math.sqrt(2 / (1000 * math.prod(shape)))
    for name in ("training", "test"):
        assert_close(
            torch.tensor(found.tables[f"mse of model, {name} data"]).double(), expected, rtol=tolerance, atol=0
        )
    assert (
        abs(found.values["generalization_gap"].value)
        < found.values["generalization_gap"].high - found.values["generalization_gap"].low
    )
    if image:
        key = "psnr_log_snr_0"
        assert found.values[key].value == pytest.approx(-10 * math.log10(expected[2]), abs=0.6)


def test_the_ideal_denoiser_is_that_of_the_training_data(context, rand):
    """At each level, and of images, computed one by one in float64."""
    train, test = rand(40, 1, 5, 4), rand(30, 1, 5, 4)
    made = context(test[:2], train, test)
    levels = trained_levels(made, LEVELS)
    found = denoise_levels(made, 10, levels)
    clean = (2 * train - 1).double()
    for i in range(4):
        far = (found.x_t[i].double()[:, None] - levels.alpha[i] * clean).flatten(2).square().sum(2)
        expected = torch.einsum("bm,m...->b...", (-far / (2 * levels.sigma[i] ** 2)).softmax(1), clean)
        assert_close(found.ideal[i].double(), expected, rtol=0, atol=1e-4)
    assert_close(squared_errors(made, found.ideal, found.x_0)[0, :10], torch.zeros(10).double(), rtol=0, atol=1e-9)


# ---- the interpretation ----


def test_perfect_memory(undrawn, context, randn):
    schedule, train, test = beta_schedules.CosineSchedule(), randn(100, 1, 20), randn(200, 1, 20)
    found = Denoising(100, LEVELS)(context(test[:3], train, test, predict=memory(schedule, train), schedule=schedule))
    assert found.values["memorized_fraction"].value == pytest.approx(1, abs=0.02)
    assert found.values["mse_train"].value == pytest.approx(found.values["ideal_mse_train"].value, rel=0.02)
    assert found.interpretation.startswith("The network memorizes its training data")


def test_the_law_itself(undrawn, context, randn):
    """The best denoiser of the law cannot tell training from test data, and beats memory on the latter."""
    schedule, train, test = beta_schedules.CosineSchedule(), randn(100, 1, 20), randn(200, 1, 20)
    found = Denoising(100, LEVELS)(context(test[:3], train, test, predict=wiener(schedule), schedule=schedule))
    assert (
        found.interpretation.startswith("The network generalizes") and "at 4 of 4 noise levels" in found.interpretation
    )
    assert abs(found.values["memorized_fraction"].value) < 0.05
    assert found.values["ideal_mse_train"].value < found.values["mse_train"].value
    assert found.values["ideal_mse_test"].value > found.values["mse_test"].value


def test_between_the_two(undrawn, context, randn):
    """A tenth of the way from the law to memory."""
    schedule, train, test = beta_schedules.CosineSchedule(), randn(400, 1, 20), randn(400, 1, 20)
    law, known = wiener(schedule), memory(schedule, train)

    def predict(*args):
        return 0.85 * law(*args) + 0.15 * known(*args)

    found = Denoising(400, LEVELS)(context(test[:3], train, test, predict=predict, schedule=schedule))
    assert found.interpretation.startswith("The network has begun to memorize")
    assert 0 < found.values["memorized_fraction"].low < found.values["memorized_fraction"].value < 0.5


def test_nothing_learned(undrawn, context, randn):
    """The denoiser that says 5 whatever it is given is worse than memory at every level."""
    made = context(randn(3, 1, 20), randn(100, 1, 20), randn(100, 1, 20), predict=lambda x_t, t, cond: 0 * x_t + 5)
    assert Denoising(100, LEVELS)(made).interpretation.startswith("The network underfits")


def test_dense_data(undrawn, context, randn):
    """Thousands of points in one dimension: to know them is to know their law."""
    schedule, train, test = beta_schedules.CosineSchedule(), randn(2500, 1), randn(300, 1)
    made = context(test[:3], train, test, predict=wiener(schedule), schedule=schedule)
    found = Denoising(300, [1.0, 0.0, -2.0])(made)
    assert "cannot be distinguished" in found.interpretation and "memorized_fraction" not in found.values


def test_estimates():
    x = torch.arange(100, dtype=torch.float64)
    found = MeanWithMargin.of(x) - MeanWithMargin(9.5, 0.0)
    assert found.value == 40 and found.margin == pytest.approx(1.96 * x.std().item() / 10) and found.positive


def test_the_gap_is_a_mean_of_relative_gaps(randn):
    """Of 10 % at one level and 30 % at another, whatever their sizes."""
    train = 1 + 0.01 * randn(2, 500)
    test = torch.tensor([[1.1], [1.3]]) + 0.01 * randn(2, 500)
    scale = torch.tensor([[1e-6], [100.0]])
    found = GeneralizationGap.of(scale * train, scale * test, 0 * train, scale * test)
    assert found.gap.value == pytest.approx(0.2, abs=2e-3) and found.gap.positive
    assert found.ideal_gap.value == pytest.approx(1) and found.memorized_fraction.value == pytest.approx(
        0.1 / 1.1 / 2 + 0.3 / 1.3 / 2, abs=2e-3
    )


# ---- levels and labels ----


@pytest.mark.parametrize("name", ["cosine", "vp_sde", "flow", "edm", "ve_sde", "laplace"])
def test_levels_have_their_log_snr(context, rand, name):
    schedule = SCHEDULES[name]()
    levels = trained_levels(context(rand(2, 2), rand(9, 2), rand(9, 2), schedule=schedule), [4.0, 0.0, -2.0])
    assert_close(2 * (levels.alpha / levels.sigma).log(), levels.log_snr, rtol=0, atol=1e-8)
    assert levels.log_snr.tolist() == [4, 0, -2]


def test_levels_beyond_the_schedule_are_left_out(context, rand):
    """The additive table ends at sigma² = 0.1."""
    made = context(rand(2, 2), rand(9, 2), rand(9, 2), schedule=discrete_schedules.AdditiveSchedule())
    assert trained_levels(made, [8.0, 4.0, 2.31, 2.3, 0.0]).log_snr.tolist() == [8.0, 4.0, 2.31]


def test_a_plain_denoiser_is_tested_at_its_own_level(context, rand):
    time_sampler = {"_target_": "src.diffusion.time_samplers.FixedTimeSampler", "t": 1.0}
    made = context(
        rand(2, 1, 20),
        rand(9, 1, 20),
        rand(9, 1, 20),
        schedule=discrete_schedules.AdditiveSchedule(),
        time_sampler=time_sampler,
    )
    levels = trained_levels(made, LEVELS)
    assert levels.sigma.tolist() == pytest.approx([math.sqrt(0.1)]) and len(levels.t) == 1
    section = Denoising(9, LEVELS)(made)
    assert "mse_log_snr_2.3" in section.values and set(section.pictures) == {"strip"}


def test_labels(context, randn):
    """The network is given those of the data, and the ideal denoiser knows which data have them."""
    label = torch.arange(40) % 2
    x = 10.0 * label[:, None] + randn(40, 1)
    seen: list[Tensor] = []

    def predict(x_t, t, cond):
        seen.append(cond)
        return 10.0 * one_hot(cond, 2)[:, 1:].to(x_t)

    made = context(x[:4], (x, label), (x + 0.1, label), predict=predict)
    levels = trained_levels(made, [-6.0])
    found = denoise_levels(made, 20, levels)
    assert torch.equal(torch.cat(seen), (found.x_0[:, 0] > 5).long())
    # Nothing but the label is left to go by: their middles, not that of all.
    near = [x[label == k].mean().item() for k in (0, 1)]
    assert_close(found.ideal[0, :, 0], torch.tensor(near)[torch.cat(seen)].float(), rtol=0, atol=1.0)


class Number(Condition):
    """The first element of a sample."""

    def forward(self, batch):
        return batch["x"][:, :1]

    def sample(self, n, generator):
        return torch.zeros(n, 1)


def test_conditions_that_are_numbers_are_given_to_the_network_only(context, randn):
    """Of the ideal denoiser they would leave a single datum."""
    x, told = randn(40, 2), []
    made = context(x[:4], x, x + 0.1)
    made.pipeline.denoiser.condition = Number()
    made.pipeline.denoiser.net.predict = lambda x_t, t, cond: told.append(cond) or x_t
    found = denoise_levels(made, 20, trained_levels(made, [-6.0]))
    assert torch.equal(torch.cat(told), found.x_0[:, :1])
    assert_close(found.ideal[0], x.mean(0).float().expand(40, 2), rtol=0, atol=0.3)
    assert (
        "The ideal denoiser is unconditional; the network is given the condition of the data."
        in Denoising(9, LEVELS)(made).notes
    )
    made.pipeline.denoiser.condition = NoCondition()
    assert not any("unconditional" in note for note in Denoising(9, LEVELS)(made).notes)


def test_an_unconditional_network_is_given_none(context, randn):
    label = torch.arange(40) % 2
    made = context(randn(4, 2), (randn(40, 2), label), (randn(40, 2), label), predict=lambda x_t, t, cond: cond and 1)
    made.pipeline.denoiser.condition = NoCondition()
    made.pipeline.denoiser.net.predict = lambda x_t, t, cond: x_t if cond is None else 1 / 0
    assert denoise_levels(made, 5, trained_levels(made, LEVELS)).model.shape == (4, 10, 2)


@pytest.mark.most(1)
@pytest.mark.parametrize("shape", [(2,), (1, 30), (1, 8, 8)])
def test_the_pictures(context, rand, shape):
    """Are drawn of every kind of data, and are no blank sheets."""
    section = Denoising(9, LEVELS)(context(rand(2, *shape), rand(9, *shape), rand(9, *shape)))
    assert set(section.pictures) == {"errors", "strip"}
    assert all(picture.image.getcolors(50) is None for picture in section.pictures.values())

"""The parts together learn what can be learned: the loss approaches that of the best possible denoiser."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from src.diffusion import weightings
from src.diffusion.beta_schedules import CosineSchedule
from src.diffusion.denoiser import Denoiser
from src.diffusion.discrete_schedules import EDMSchedule as edm_levels
from src.diffusion.losses import MSE, Hybrid
from src.diffusion.parameterizations import EDM, X0, Eps, Flow, V
from src.diffusion.schedules import FlowSchedule
from src.diffusion.time_samplers import (
    DiscreteUniformTimeSampler,
    LogitNormalTimeSampler,
    LogNormalTimeSampler,
    StratifiedTimeSampler,
)
from src.diffusion.variances import FixedLargeVariance, FixedSmallVariance, LearnedRangeVariance
from src.diffusion.vlb import vlb_terms
from src.nets.mlp import MLP
from src.optim.ema import ConstantEMA
from src.samplers.ancestral import DDIM
from src.samplers.base import SeededNoise
from src.utils.seeding import generator
from tests.diffusion.reference import Oracle
from tests.samplers.registry import sample

pytestmark = pytest.mark.usefixtures("unchecked")

SHAPE = (1, 4)


class Recipe:
    """Gaussian data, and a small network that is trained on it for some hundred steps."""

    def __init__(self, truth, denoiser, loss, times, steps=350):
        self.truth, self.denoiser, self.loss, self.times = truth, denoiser, loss, times
        ema = ConstantEMA(denoiser, 0.98)
        optimizer = torch.optim.Adam(denoiser.parameters(), lr=4e-3)
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            loss(denoiser, *self.batch(256, "train", step)).mean().backward()
            optimizer.step()
            ema.update(denoiser, step)
        self.trained = ema.model

    def batch(self, n, *keys):
        """Data, times and noise."""
        g = generator(*keys)
        x_0 = (self.truth.mean + self.truth.std * torch.randn(n, *SHAPE, generator=g, dtype=torch.float64)).float()
        return x_0, self.times(n, g, self.denoiser.schedule), torch.randn(n, *SHAPE, generator=g)

    @torch.no_grad()
    def against_the_best(self):
        """The loss over that of the exact denoiser, on the same data and noise, so that it hardly varies."""
        test = self.batch(10_000, "test")
        best = Oracle(self.truth.denoiser(self.denoiser.schedule), self.denoiser.schedule)
        return (self.loss(self.trained, *test).mean() / self.loss(best, *test).mean()).item()

    @torch.no_grad()
    def samples(self):
        sampler = DDIM(self.denoiser.schedule, 50)
        return sample(sampler, self.trained, SeededNoise(range(1000)), torch.empty(1000, *SHAPE))


def mlp(**options):
    torch.manual_seed(0)
    return MLP(1, SHAPE[1:], width=64, depth=2, **options)


@pytest.mark.most(1)
@pytest.mark.parametrize(
    ("schedule", "part", "weighting", "times"),
    [
        pytest.param(CosineSchedule, Eps, weightings.simple_weighting, StratifiedTimeSampler(), marks=pytest.mark.slow),
        (CosineSchedule, V, weightings.v_weighting, StratifiedTimeSampler()),
        pytest.param(
            CosineSchedule, X0, weightings.uniform_weighting, DiscreteUniformTimeSampler(1000), marks=pytest.mark.slow
        ),
        pytest.param(
            edm_levels, EDM, weightings.edm_weighting, LogNormalTimeSampler(-0.5, 1.2), marks=pytest.mark.slow
        ),
        pytest.param(FlowSchedule, Flow, weightings.flow_weighting, LogitNormalTimeSampler(), marks=pytest.mark.slow),
    ],
    ids=["eps", "v", "x0", "edm", "flow"],
)
def test_approaches_the_ideal_loss(schedule, part, weighting, times, gaussian):
    """Each in the space that is its own, where the network's targets have unit scale."""
    recipe = Recipe(gaussian(SHAPE), Denoiser(mlp(), schedule(), part()), MSE(weighting), times)
    assert 0.999 < recipe.against_the_best() < 1.02
    # Not asked of the noise, whose errors are multiplied by sigma / alpha: 20,000 in the first step of cosine.
    if part is not Eps:
        x = recipe.samples()
        # Five standard errors, rounded up for the 50 steps and the network.
        assert (x.mean(0) - recipe.truth.mean).abs().max() < 0.25
        assert (x.std(0) / recipe.truth.std - 1).abs().max() < 0.25


@pytest.mark.slow
def test_self_conditioning_learns_as_well(gaussian):
    """Gaussian data leaves it nothing to gain; what it is shown does not confuse it."""
    denoiser = Denoiser(mlp(in_channels=2), CosineSchedule(), V(), self_conditioning_prob=0.5)
    recipe = Recipe(gaussian(SHAPE), denoiser, MSE(weightings.v_weighting), StratifiedTimeSampler())
    assert not recipe.trained.training and 0.999 < recipe.against_the_best() < 1.02


@pytest.mark.slow
def test_a_learned_variance_lowers_the_bound(gaussian):
    """Below both fixed ones of the same network, and near the entropy of the data, the least that there is."""
    steps = 20
    denoiser = Denoiser(mlp(out_channels=2), CosineSchedule(steps), V(), LearnedRangeVariance())
    loss = Hybrid(weightings.v_weighting, steps, scale=0.01)
    recipe = Recipe(gaussian(SHAPE), denoiser, loss, DiscreteUniformTimeSampler(steps), 200)
    x_0, _, _ = recipe.batch(1000, "test")

    def bound(variance):
        class First(nn.Module):
            def forward(self, x, c_noise, cond=None):
                return recipe.trained.net(x, c_noise, cond).chunk(2, 1)[0]

        model = Denoiser(First(), denoiser.schedule, V(), variance) if variance else recipe.trained
        return vlb_terms(model, x_0, steps, generator("bound"))["total"].mean().item()

    least = -Normal(recipe.truth.mean, recipe.truth.std).log_prob(x_0.double()).mean().item() / math.log(2)
    learned, small, large = bound(None), bound(FixedSmallVariance()), bound(FixedLargeVariance())
    assert least - 0.01 < learned < least + 0.05, (least, learned)
    assert learned < small - 0.5 and learned < large - 0.005, (learned, small, large)

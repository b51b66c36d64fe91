"""Time embeddings equal their formulas, in single precision, and tell noise levels apart."""

import math

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch.testing import assert_close

from src.nets.time_embeddings import FourierEmbedding, LearnedEmbedding, SinusoidalEmbedding

pytestmark = pytest.mark.strength(1)

EVERY = [SinusoidalEmbedding, FourierEmbedding, LearnedEmbedding]
RANDOM = [FourierEmbedding, LearnedEmbedding]


@pytest.mark.parametrize("dim", [2, 16, 64])
@pytest.mark.parametrize("max_period", [10_000, 100.0])
def test_sinusoidal_equals_diffusers(dim, max_period):
    c = torch.tensor([0, 1e-2, 0.5, 1, 17, 123.4, 999, 1000])
    theirs = get_timestep_embedding(c, dim, flip_sin_to_cos=True, downscale_freq_shift=0, max_period=max_period)
    assert_close(SinusoidalEmbedding(dim, max_period)(c), theirs, rtol=0, atol=1e-4)


def test_sinusoidal_equals_its_formula():
    c = torch.tensor([0.3, 7.0, 900.0])
    by_hand = [
        [math.cos(x * 1e4 ** (-i / 4)) for i in range(4)] + [math.sin(x * 1e4 ** (-i / 4)) for i in range(4)] for x in c
    ]
    assert_close(SinusoidalEmbedding(8)(c), torch.tensor(by_hand), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", RANDOM)
def test_fourier_equals_its_formula(kind):
    c, embed = torch.tensor([-200.0, 0.0, 7.0, 900.0]), kind(6)
    angles = [[2 * math.pi * w * x / 1000 for w in embed.frequencies.tolist()] for x in c.tolist()]
    by_hand = [[math.cos(a) for a in row] + [math.sin(a) for a in row] for row in angles]
    assert_close(embed(c), torch.tensor(by_hand), rtol=0, atol=1e-4)


@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_fourier_has_the_kernel_of_a_gaussian(scale):
    """The mean of cos(2 pi w d / 1000) is exp(-(2 pi s d / 1000)^2 / 2): the scale is that of what it tells apart."""
    torch.manual_seed(0)
    n, c = 100_000, torch.tensor([0.0, 20.0, 50.0, 100.0, 400.0])
    waves = FourierEmbedding(2 * n, scale)(c)
    distance = (c[:, None] - c) / 1000
    expected = torch.exp(-((2 * math.pi * scale * distance) ** 2) / 2)
    assert_close(waves @ waves.T / n, expected, rtol=0, atol=5 / n**0.5)


def test_fourier_is_fixed_and_learned_is_trained():
    """Both are kept in checkpoints, since they are random; the sinusoidal one is not."""
    c = torch.tensor([1.0, 500.0])
    assert [[name for name, _ in kind(8).named_parameters()] for kind in EVERY] == [[], [], ["frequencies"]]
    assert [list(kind(8).state_dict()) for kind in EVERY] == [[], ["frequencies"], ["frequencies"]]
    torch.manual_seed(0)
    fixed = FourierEmbedding(8)
    torch.manual_seed(0)
    learned = LearnedEmbedding(8)
    assert torch.equal(fixed(c), learned(c))
    learned(c).square().sum().backward()
    learned.zero_grad()
    (learned(c) * torch.arange(8)).sum().backward()
    half = 2 * math.pi * learned.frequencies.detach() / 1000
    by_hand = sum(
        x * 2 * math.pi / 1000 * (torch.arange(4, 8) * (x * half).cos() - torch.arange(4) * (x * half).sin()) for x in c
    )
    assert_close(learned.frequencies.grad, by_hand, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", EVERY)
def test_taken_in_single_precision(kind):
    """bf16 could not even tell 999 from 1000."""
    c, embed = torch.tensor([999.0, 1000.0]), kind(64)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(embed(c), embed(c.double()), rtol=0, atol=0)
    assert (embed(c)[0] - embed(c)[1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_typed_as_the_network(kind, dtype):
    assert kind(8).to(dtype)(torch.tensor([3.0])).dtype == dtype


@pytest.mark.parametrize("kind", EVERY)
def test_odd_widths_are_refused(kind):
    with pytest.raises(ValueError, match="even, got 7"):
        kind(7)

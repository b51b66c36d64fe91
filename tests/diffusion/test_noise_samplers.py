"""The training noise: what is drawn, whose it is, and that it depends on the generator and the data alone."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from src.diffusion.noise_samplers import GaussianNoiseSampler, OffsetNoiseSampler, OptimalTransportNoiseSampler
from src.utils.seeding import generator
from tests.helpers.tiny import fit, make_module, weights

SHAPES = [(2,), (3, 5), (2, 3, 4), (2, 2, 3, 2)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_default_is_plain_noise(dtype):
    noise, sampler = torch.randn(4, 2, 3, generator=seeded(), dtype=dtype), GaussianNoiseSampler()
    assert torch.equal(sampler.draw((4, 2, 3), seeded(), dtype), noise)
    assert sampler.pair(torch.ones_like(noise), noise) is noise


@pytest.mark.parametrize("shape", SHAPES)
def test_an_offset_is_that_of_a_channel(shape):
    """As in the source, which adds 0.1 * randn(B, C, 1, 1) to plain noise."""
    sampler, g = OffsetNoiseSampler(0.7), seeded()
    plain = torch.randn(5, *shape, generator=g)
    offset = torch.randn(5, shape[0], *[1] * (len(shape) - 1), generator=g)
    assert_close(sampler.draw((5, *shape), seeded(), torch.float32), plain + 0.7 * offset)


def test_moments_of_an_offset():
    """Of variance 1 + s^2, of which s^2 is common to a channel."""
    noise = OffsetNoiseSampler(0.5).draw((4000, 2, 16), seeded(), torch.float64)
    assert noise.var().item() == pytest.approx(1.25, abs=0.03)
    first, second = noise[:, 0, :8].mean(1), noise[:, 0, 8:].mean(1)
    assert (first * second).mean().item() == pytest.approx(0.25, abs=5 * 0.375 / 4000**0.5)
    assert (first * noise[:, 1].mean(1)).mean().abs() < 5 * 0.35 / 4000**0.5


def cost(x_0, noise):
    return (x_0 - noise).square().sum().item()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_transport_is_the_best_of_all_assignments(shape, randn):
    sampler, x_0, noise = OptimalTransportNoiseSampler(), 2 * randn(5, *shape) + 1, randn(5, *shape)
    paired = sampler.pair(x_0, noise)
    best = min(itertools.permutations(range(5)), key=lambda order: cost(x_0, noise[list(order)]))
    assert torch.equal(paired, noise[list(best)])
    assert cost(x_0, paired) < cost(x_0, noise)


def test_the_transport_of_numbers_keeps_their_order(randn):
    x_0, noise = randn(200, 1), randn(200, 1)
    paired = OptimalTransportNoiseSampler().pair(x_0, noise)
    assert torch.equal(paired[x_0[:, 0].argsort()], noise.sort(0).values)
    assert torch.equal(OptimalTransportNoiseSampler().pair(x_0, paired), paired), "what is best stays"
    assert paired.dtype == noise.dtype


def test_a_negative_strength_is_refused():
    with pytest.raises(ValueError, match=r"noise_sampler\.strength must be >= 0, got -0.1"):
        OffsetNoiseSampler(-0.1)


def trained(folder, sampler, **settings):
    module = make_module()
    module.noise_sampler = sampler
    return weights(fit(folder, module, **settings)[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sampler", [OffsetNoiseSampler(0.5), OptimalTransportNoiseSampler()], ids=["offset", "ot"])
def test_runs_repeat_bit_for_bit(tmp_path, sampler):
    """Whatever is drawn between: validations change nothing. The noise is another than the default's."""
    first = trained(tmp_path, sampler)
    torch.manual_seed(7)
    assert torch.equal(trained(tmp_path, sampler, val_check_interval=2), first)
    assert not torch.equal(trained(tmp_path, GaussianNoiseSampler()), first)


def test_each_process_assigns_its_share(randn):
    """Of noise that is drawn for all of them: the shares together are what one process draws."""
    module = make_module()
    module.noise_sampler = OptimalTransportNoiseSampler()
    x_0, drawn = randn(6, 3).float(), []
    for rank in range(2):
        module._trainer = type("Trainer", (), {"world_size": 2, "global_rank": rank, "strategy": None})()
        _, noise, _ = module.sample_times_and_noise(x_0[rank::2], 6, module.time_sampler, 0, "train", 0)
        drawn.append(noise)
    plain = GaussianNoiseSampler().draw((6, 3), generator(0, "train", 0, "noise"), torch.float32)
    for rank, noise in enumerate(drawn):
        assert torch.equal(noise, OptimalTransportNoiseSampler().pair(x_0[rank::2], plain[rank::2]))

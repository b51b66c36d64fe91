"""Clusters of data: found as another k-means finds them, drawn by their shares, and a bound for the whole."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits

from src.diffusion.beta_schedules import CosineSchedule
from src.diffusion.clusters import Clusters, flat
from src.diffusion.denoiser import Denoiser
from src.diffusion.parameterizations import V
from src.utils.errors import UserError

SHAPES = [(2,), (1, 6), (1, 300), (1, 8, 8), (3, 17, 33), (1, 64, 64)]


def blobs(shape, sizes, spread=0.01):
    """Groups of data around points far from each other, shuffled, and the group of each."""
    g = torch.Generator().manual_seed(0)
    which = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))[torch.randperm(sum(sizes), generator=g)]
    middles = torch.randn(len(sizes), *shape, generator=g)
    return middles[which] + spread * torch.randn(len(which), *shape, generator=g), which


def found(x, count, seed=0):
    clusters = Clusters(count, tuple(x.shape[1:]))
    clusters.find(x.split(7), seed)
    return clusters


@pytest.mark.parametrize("shape", SHAPES)
def test_groups_that_lie_apart_are_found(shape):
    """Of some seed: k-means may end in a place where two groups share a cluster."""
    x, which = blobs(shape, [10, 30, 60])
    for seed in range(20):
        clusters = found(x, 3, seed)
        said = clusters(x)
        pairs = {(int(a), int(b)) for a, b in zip(which, said, strict=True)}
        if len(pairs) == 3:
            assert {b for _, b in pairs} == {0, 1, 2}
            shares = {b: float(clusters.shares[b]) for _, b in pairs}
            assert [shares[b] for _, b in sorted(pairs)] == pytest.approx([11 / 103, 31 / 103, 61 / 103])
            torch.testing.assert_close(clusters.centres[said], flat(x), rtol=0, atol=0.06)
            return
    pytest.fail("no seed told the groups apart")


def test_as_tight_as_those_of_scikit_learn():
    """The squared distance to the nearest centre, on real digits; its best of ten tries."""
    x = torch.from_numpy(load_digits().data).float().view(-1, 1, 8, 8) / 8 - 1
    clusters = found(x, 30)
    ours = (flat(x) - clusters.centres[clusters(x)]).square().sum()
    assert ours <= 1.05 * KMeans(30, n_init=10, random_state=0).fit(flat(x).numpy()).inertia_


def test_each_sample_belongs_to_the_nearest_centre():
    x = torch.randn(50, 1, 8, 8)
    clusters = found(x, 7)
    assert torch.equal(clusters(x), torch.cdist(flat(x).double(), clusters.centres.double()).argmin(1))
    assert torch.equal(clusters(x.double()), clusters(x))


@pytest.mark.parametrize("shape", SHAPES)
def test_large_data_are_compared_in_small(shape):
    x = torch.randn(2, *shape)
    numbers = flat(x)
    assert numbers.shape[1] <= 256 * shape[0] and numbers.dtype == torch.float32
    if len(shape) == 1:
        assert torch.equal(numbers, x)
        return
    torch.testing.assert_close(numbers.mean(1), torch.zeros(2))
    torch.testing.assert_close(numbers.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(flat(0.1 * x + 0.5), numbers, msg="brightness and contrast make no difference")
    assert flat(torch.full((1, *shape), 0.3)).abs().max() < 1e-3, "what is the same everywhere has no shape"


def test_copies_are_means_of_overlapping_windows():
    x = torch.randn(2, 3, 32, 32)
    windows = F.pad(x, (1, 1, 1, 1), value=torch.nan).unfold(2, 4, 2).unfold(3, 4, 2)
    means = windows.nanmean((4, 5)).flatten(1)
    assert means.shape == (2, 3 * 16 * 16)
    torch.testing.assert_close(flat(x), F.normalize(means - means.mean(1, keepdim=True)))


def test_new_samples_are_drawn_by_the_shares():
    """Each count within five standard deviations; and sample i is the same whatever n."""
    x, _ = blobs((2,), [100, 300, 600])
    clusters = found(x, 5)
    drawn = clusters.draw(20_000, seed=3)
    expected, counts = 20_000 * clusters.shares, drawn.bincount(minlength=5)
    assert ((counts - expected).abs() <= 5 * (expected * (1 - clusters.shares)).sqrt()).all()
    for n in (1, 5, 17, 100):
        assert torch.equal(clusters.draw(n, seed=3), drawn[:n])
    assert not torch.equal(clusters.draw(100, seed=4), drawn[:100])


def test_none_is_impossible():
    """Even one that no sample belongs to, here since many samples are the same."""
    clusters = found(torch.zeros(20, 2), 4)
    assert clusters.shares.sum().item() == pytest.approx(1) and (clusters.shares > 0).all()
    which = torch.arange(4)
    torch.testing.assert_close(clusters.log_share(which).exp(), clusters.shares.double())


def test_they_are_a_function_of_the_data_and_the_seed():
    x, _ = blobs((1, 6), [30, 30, 30])
    torch.manual_seed(5)
    a = found(x, 4)
    torch.manual_seed(6)
    assert torch.equal(found(x, 4).centres, a.centres)
    assert not torch.equal(found(x, 4, seed=1).centres, a.centres)


def test_they_are_kept_with_the_weights():
    x, _ = blobs((1, 6), [30, 30])
    clusters, again = found(x, 3), Clusters(3, (1, 6))
    assert clusters.found and not again.found
    again.load_state_dict(clusters.state_dict())
    assert again.found and torch.equal(again(x), clusters(x)) and torch.equal(again.draw(9, 0), clusters.draw(9, 0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_converted_with_the_net(dtype):
    """As trainer.precision=bf16-true does: groups that lie apart stay so, and the shares are still shares."""
    x, _ = blobs((1, 6), [30, 30, 40])
    clusters = found(x, 3)
    before, drawn = clusters(x), clusters.draw(1000, 0)
    clusters.to(dtype)
    assert torch.equal(clusters(x.to(dtype)), before)
    assert (clusters.draw(1000, 0) != drawn).float().mean() < 0.01
    assert clusters.log_share(torch.arange(3)).exp().sum().item() == pytest.approx(1)


def test_too_few_data():
    with pytest.raises(UserError, match="clusters=9 is more than the 4 training samples; use fewer"):
        found(torch.randn(4, 2), 9)


def test_what_a_denoiser_tells_its_net():
    x, _ = blobs((1, 6), [30, 30])
    clusters, label = found(x, 3), torch.arange(60)
    with_them = Denoiser(torch.nn.Identity(), CosineSchedule(), V(), clusters=clusters)
    without = Denoiser(torch.nn.Identity(), CosineSchedule(), V())
    assert torch.equal(with_them.told(x, label), clusters(x)) and torch.equal(with_them.told(x, None), clusters(x))
    assert torch.equal(without.told(x, label), label) and without.told(x, None) is None
    assert torch.equal(with_them.draw_clusters(5, 1), clusters.draw(5, 1)) and without.draw_clusters(5, 1) is None

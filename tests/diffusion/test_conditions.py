"""Conditions: taken from data, dropped and drawn; clusters as another k-means finds them, and a bound for the whole."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits

from src.diffusion.beta_schedules import CosineSchedule
from src.diffusion.conditions import Clusters, Condition, Labels, NoCondition
from src.diffusion.conditions.clusters import features_of
from src.diffusion.denoiser import Denoiser
from src.diffusion.guidance import CFG
from src.diffusion.parameterizations import V

SHAPES = [(2,), (1, 6), (1, 300), (1, 8, 8), (3, 17, 33), (1, 64, 64), (1, 1, 900), (2, 1, 12, 40), (1, 16, 16, 16)]


def blobs(shape, sizes, spread=0.01):
    """Groups of data around points far from each other, shuffled, and the group of each."""
    g = torch.Generator().manual_seed(0)
    which = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))[torch.randperm(sum(sizes), generator=g)]
    middles = torch.randn(len(sizes), *shape, generator=g)
    return middles[which] + spread * torch.randn(len(which), *shape, generator=g), which


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def fitted(x, count, seed=0):
    clusters = Clusters(count, x.shape[1], x.shape[2:])
    clusters.fit(({"x": part} for part in x.split(7)), seeded(seed))
    return clusters


@pytest.mark.parametrize("shape", SHAPES)
def test_groups_that_lie_apart_are_found(shape):
    """Clusters of some seed: k-means may end in a place where two groups share a cluster."""
    x, which = blobs(shape, [10, 30, 60])
    for seed in range(20):
        clusters = fitted(x, 3, seed)
        said = clusters({"x": x})
        pairs = {(int(a), int(b)) for a, b in zip(which, said, strict=True)}
        if len(pairs) == 3:
            assert {b for _, b in pairs} == {0, 1, 2}
            weights = {b: float(clusters.weights[b]) for _, b in pairs}
            assert [weights[b] for _, b in sorted(pairs)] == pytest.approx([11 / 103, 31 / 103, 61 / 103])
            torch.testing.assert_close(clusters.centers[said], features_of(x), rtol=0, atol=0.06)
            return
    pytest.fail("no seed told the groups apart")


def test_as_tight_as_those_of_scikit_learn():
    """The squared distance to the nearest center, on real digits; its best of ten tries."""
    x = torch.from_numpy(load_digits().data).float().view(-1, 1, 8, 8) / 8 - 1
    clusters = fitted(x, 30)
    ours = (features_of(x) - clusters.centers[clusters({"x": x})]).square().sum()
    assert ours <= 1.05 * KMeans(30, n_init=10, random_state=0).fit(features_of(x).numpy()).inertia_


def test_each_center_is_the_mean_of_its_samples():
    """Also of a single one, and of a center that has lost others; one without samples stays where it was."""
    alone = 0
    for seed in range(20):
        x = torch.randn(12, 2, generator=seeded(seed))
        clusters = fitted(x, 6, seed)
        which = clusters({"x": x})
        for k in which.unique():
            torch.testing.assert_close(clusters.centers[k], x[which == k].mean(0))
            alone += (which == k).sum() == 1
    assert alone > 10


def test_a_center_without_samples_stays_where_it_was():
    clusters = fitted(torch.full((7, 2), 3.0), 2)
    assert torch.equal(clusters.centers, torch.full((2, 2), 3.0))
    assert clusters.weights.tolist() == pytest.approx([8 / 9, 1 / 9])


def test_each_sample_belongs_to_the_nearest_center():
    x = torch.randn(50, 1, 8, 8)
    clusters = fitted(x, 7)
    assert torch.equal(clusters({"x": x}), torch.cdist(features_of(x).double(), clusters.centers.double()).argmin(1))
    assert torch.equal(clusters({"x": x.double()}), clusters({"x": x}))


@pytest.mark.parametrize("shape", SHAPES)
def test_large_data_are_compared_in_small(shape):
    x = torch.randn(2, *shape)
    numbers = features_of(x)
    assert numbers.shape[1] <= 256 * shape[0] and numbers.dtype == torch.float32
    if len(shape) == 1:
        assert torch.equal(numbers, x)
        return
    torch.testing.assert_close(numbers.mean(1), torch.zeros(2))
    torch.testing.assert_close(numbers.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(features_of(0.1 * x + 0.5), numbers, msg="brightness and contrast make no difference")
    assert features_of(torch.full((1, *shape), 0.3)).abs().max() < 1e-3, "what is the same everywhere has no shape"


def test_copies_are_means_of_overlapping_windows():
    x = torch.randn(2, 3, 32, 32)
    windows = F.pad(x, (1, 1, 1, 1), value=torch.nan).unfold(2, 4, 2).unfold(3, 4, 2)
    means = windows.nanmean((4, 5)).flatten(1)
    assert means.shape == (2, 3 * 16 * 16)
    torch.testing.assert_close(features_of(x), F.normalize(means - means.mean(1, keepdim=True)))


def test_new_samples_are_drawn_by_the_weights():
    """Each count within five standard deviations; and sample i is the same whatever n."""
    x, _ = blobs((2,), [100, 300, 600])
    clusters = fitted(x, 5)
    drawn = clusters.sample(20_000, seeded(3))
    expected, counts = 20_000 * clusters.weights, drawn.bincount(minlength=5)
    assert ((counts - expected).abs() <= 5 * (expected * (1 - clusters.weights)).sqrt()).all()
    for n in (1, 5, 17, 100):
        assert torch.equal(clusters.sample(n, seeded(3)), drawn[:n])
    assert not torch.equal(clusters.sample(100, seeded(4)), drawn[:100])


def test_none_is_impossible():
    """Even one that no sample belongs to, here since many samples are the same."""
    clusters = fitted(torch.zeros(20, 2), 4)
    assert clusters.weights.sum().item() == pytest.approx(1) and (clusters.weights > 0).all()
    which = torch.arange(4)
    torch.testing.assert_close(clusters.log_prior(which).exp(), clusters.weights.double())


def test_they_are_a_function_of_the_data_and_the_seed():
    x, _ = blobs((1, 6), [30, 30, 30])
    torch.manual_seed(5)
    a = fitted(x, 4)
    torch.manual_seed(6)
    assert torch.equal(fitted(x, 4).centers, a.centers)
    assert not torch.equal(fitted(x, 4, seed=1).centers, a.centers)


def test_they_are_kept_with_the_weights():
    x, _ = blobs((1, 6), [30, 30])
    clusters, again = fitted(x, 3), Clusters(3, 1, (6,))
    assert clusters.is_fitted and not again.is_fitted
    again.load_state_dict(clusters.state_dict())
    assert (
        again.is_fitted
        and torch.equal(again({"x": x}), clusters({"x": x}))
        and torch.equal(again.sample(9, seeded()), clusters.sample(9, seeded()))
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_converted_with_the_net(dtype):
    """As trainer.precision=bf16-true does: groups that lie apart stay so, and the weights are still weights."""
    x, _ = blobs((1, 6), [30, 30, 40])
    clusters = fitted(x, 3)
    before, drawn = clusters({"x": x}), clusters.sample(1000, seeded())
    clusters.to(dtype)
    assert torch.equal(clusters({"x": x.to(dtype)}), before)
    assert (clusters.sample(1000, seeded()) != drawn).float().mean() < 0.01
    assert clusters.log_prior(torch.arange(3)).exp().sum().item() == pytest.approx(1)


def test_too_few_data():
    with pytest.raises(ValueError, match="num_clusters must be <= 4, the number of training samples, got 9"):
        fitted(torch.randn(4, 2), 9)


# ---- all conditions ----


def make(name) -> Condition:
    x = torch.randn(30, 1, 6, generator=seeded())
    return {"none": NoCondition, "labels": lambda: Labels(5, 0.1), "clusters": lambda: fitted(x, 5)}[name]()


@pytest.mark.parametrize("name", ["labels", "clusters"])
def test_classes_are_taken_from_data_dropped_and_drawn(name):
    condition, batch = make(name), {"x": torch.randn(40, 1, 6), "label": torch.arange(40) % 5}
    cond, dropped = condition(batch), torch.arange(40) % 3 == 0
    assert cond.shape == (40,) and cond.dtype == torch.int64 and cond.min() >= 0 and cond.max() < 5
    assert condition.num_classes == 5 and condition.dropout == 0.1
    kept = condition.drop(cond, dropped)
    assert (
        torch.equal(kept[~dropped], cond[~dropped])
        and kept[dropped].tolist() == condition.null(14).tolist() == [-1] * 14
    )
    drawn = condition.sample(20, seeded())
    assert drawn.dtype == torch.int64 and torch.equal(condition.sample(7, seeded()), drawn[:7])
    assert condition.log_prior(cond).shape == (40,)
    assert torch.equal(cond, batch["label"]) or name == "clusters"


def test_labels_are_known_and_drawn_in_turn():
    labels = make("labels")
    assert labels.sample(7, seeded()).tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert not labels.log_prior(torch.arange(5)).any() and labels.is_fitted


def test_without_a_condition_there_is_none():
    condition = make("none")
    assert condition({"x": torch.zeros(2, 1), "label": torch.zeros(2)}) is None
    assert condition.sample(3, seeded()) is None and condition.null(3) is None and condition.num_classes == 0
    assert isinstance(Denoiser(torch.nn.Identity(), CosineSchedule(), V()).condition, NoCondition)


def test_labels_that_the_data_do_not_have():
    with pytest.raises(
        ValueError, match=r"data\.num_classes is 0; set it to the number of labels .* or use condition=none"
    ):
        Labels(0)
    Labels(5).check_data({"x": torch.zeros(1), "label": torch.zeros(1)}, 1)
    with pytest.raises(ValueError, match="must have labels, batches"):
        Labels(5).check_data({"x": torch.zeros(1)}, 1)


class Vector(Condition):
    """A condition of the user's own: three real numbers of each sample."""

    def forward(self, batch):
        return batch["vector"]

    def sample(self, n, generator):
        return torch.randn(n, 3, generator=generator)


def test_of_floats_a_missing_one_is_nan_and_the_net_is_told_so():
    condition, vector, told = Vector(dropout=0.5), torch.randn(4, 3), []
    dropped = torch.tensor([True, False, False, True])
    kept = condition.drop(condition({"vector": vector}), dropped)
    assert torch.equal(kept[1:3], vector[1:3]) and kept[dropped].isnan().all() and kept.dtype == torch.float32
    assert condition.null(5).shape == (5, 3) and condition.null(5).isnan().all()

    class Net(torch.nn.Module):
        def forward(self, x, c_noise, cond):
            told.append(cond)
            return x + cond.nan_to_num().sum(1, keepdim=True)

    denoiser, x, t = Denoiser(Net(), CosineSchedule(), V(), condition=condition), torch.randn(4, 2), torch.tensor(0.5)
    without, given = denoiser(x, t).x_0, denoiser(x, t, kept).x_0
    assert (
        told[0].isnan().all()
        and torch.equal(told[1].isnan(), kept.isnan())
        and torch.equal(without[dropped], given[dropped])
    )
    _, sigma = denoiser.schedule.alpha_sigma(t.double())
    assert torch.allclose(without - given, sigma.float() * kept.nan_to_num().sum(1, keepdim=True), atol=1e-6)
    guided = CFG(3.0)(denoiser, denoiser.schedule)(x, t, kept).x_0
    assert torch.allclose(guided, without + 3 * (given - without), atol=1e-5)


def test_labels_are_told_as_null_where_none_are_given():
    told = []

    class Net(torch.nn.Module):
        def forward(self, x, c_noise, cond):
            told.append(cond.tolist())
            return x

    Denoiser(Net(), CosineSchedule(), V(), condition=Labels(5))(torch.zeros(2, 1), torch.tensor(0.5))
    assert told == [[-1, -1]]
